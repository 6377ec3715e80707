"""Answers with calls of tools as each family writes them, and some that only look like it."""

import json

CALL = '{"name": "add", "arguments": {"a": 1, "b": [2, "x"]}}'
AS_STRING = json.dumps({"name": "add", "arguments": '{"a": 1, "b": [2, "x"]}'})

# Each calls `add` once; beside it, what is left of it.
CALLS = [
    (f"<tool_call>\n{CALL}\n</tool_call>", ""),
    (f"I add. <tool_call>{CALL}</tool_call> Done.", "I add.  Done."),
    (f"[TOOL_CALLS][{CALL}]", ""),
    (f"Sure.[TOOL_CALLS] [{CALL}]", "Sure."),
    (CALL.replace("arguments", "parameters"), ""),
    (f"<|python_tag|>{CALL}", ""),
    (f"<tool_call>{AS_STRING}</tool_call>", ""),
]

NO_CALLS = [
    "The sum is 3.",
    "<tool_call>{not json}</tool_call>",
    '<tool_call>{"arguments": {}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
    '<tool_call>{"name": "add", "arguments": "{"}</tool_call>',
    '<tool_call>{"name": "add"}',
    '{"name": "Ada", "age": 36}',
    '[TOOL_CALLS][{"name": "add", "arguments": {}}, 3]',
    '<tool_call>{"name": "add", "arguments": {"a": NaN}}</tool_call>',
    '<tool_call>{"name": "add", "arguments": {"a": "\\ud800"}}</tool_call>',
]
