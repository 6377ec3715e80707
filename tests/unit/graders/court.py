"""A judge's server, what graders ask it, and what it is asked about."""

from dataclasses import dataclass
from typing import Any

from peer_server import Peer

from jobs.graders import Means, Sample, parse_grader

SAMPLE = Sample(output_text="It is 4.")
ITEM = {"question": "2 + 2?", "messages": [{"role": "user", "content": "2 + 2?"}]}
MESSAGES = [
    {"role": "system", "content": "Grade from 0 to 1."},
    {"role": "user", "content": "{{item.question}} -> {{sample.output_text}}"},
]
SCORE = {"type": "score_model", "name": "s", "model": "strict", "input": MESSAGES}


@dataclass
class Court:
    """A judge's server and means that know it as `strict`."""

    peer: Peer
    means: Means

    def grade(self, definition: dict[str, Any] = SCORE, sample: Sample = SAMPLE) -> Any:
        return parse_grader(definition, self.means).grade(sample, ITEM)
