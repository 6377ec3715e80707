"""The thinking switch of chat templates: found where it is one, and only there."""

from pathlib import Path

import pytest

from jobs.thinking import Effort, arguments, template_in

# Shortened from templates in use.
QWEN3 = (
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
GPT_OSS = (
    '{%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}'
    '{{- "Reasoning: " + reasoning_effort }}{{ message.thinking }}'
)
DEEPSEEK = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
# A text that speaks of thinking, a field of that name, a comment.
NONE = (
    "enable_thinking {# thinking #}{{ message.thinking }}{{ 'thinking' }}{{ message['thinking'] }}"
    "{{ no_thinking }}"
)


@pytest.mark.parametrize(
    ("template", "effort", "told"),
    [
        (QWEN3, "low", {"enable_thinking": True}),
        (QWEN3, "default", {}),
        (GPT_OSS, "high", {"reasoning_effort": "high"}),
        (DEEPSEEK, "medium", {"thinking": True}),
        (NONE, "default", {}),
    ],
)
def test_templates_are_told_in_their_own_words(
    template: str, effort: Effort, told: dict[str, object]
) -> None:
    assert arguments(template, effort) == told


def test_a_template_without_a_switch_is_a_reason() -> None:
    with pytest.raises(ValueError, match=r"'high'.*no thinking switch"):
        arguments(NONE, "high")


def test_a_folders_template(tmp_path: Path) -> None:
    assert template_in(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    assert template_in(tmp_path) == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert template_in(tmp_path) == "new"
