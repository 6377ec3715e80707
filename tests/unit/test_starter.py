"""The shipped starter: its tokenizer, its tasks and the level it was built to."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import worker.starter
from jobs.starter import (
    ARITHMETIC_ROWS_MAX,
    BLOCKLIST,
    arithmetic_rows,
    score_arithmetic,
    sentence_rows,
)
from worker.starter.build import lesson_loss, new_model, train
from worker.starter.lessons import IGNORED, arithmetic_lessons, sentence_lessons
from worker.starter.measure import generate, measure_arithmetic
from worker.starter.teacher import habitual_answer
from worker.starter.tokenizer import render_prompt

FOLDER = Path(worker.starter.__file__).parent


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(FOLDER)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def sentences(model, tokenizer):
    """Ten sampled sentences for each of 30 held-out requests."""
    torch.manual_seed(0)
    rows = [row for row in sentence_rows(30, 0, "valid") for _ in range(10)]
    prompts = [render_prompt(row, tokenizer) for row in rows]
    return generate(model, tokenizer, prompts, max_new_tokens=64, temperature=1)


def questions(rows):
    return {row["messages"][0]["content"] for row in rows}


@settings(deadline=None)
@given(st.text())
def test_any_text_encodes_and_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.integers(min_value=0))
def test_every_digit_is_a_token_of_its_own(tokenizer, number):
    assert tokenizer.tokenize(str(number)) == list(str(number))


def test_a_turn_ends_with_a_token_that_is_not_padding(tokenizer):
    generation = GenerationConfig.from_pretrained(FOLDER)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert generation.eos_token_id == tokenizer.eos_token_id
    assert generation.pad_token_id == tokenizer.pad_token_id


def test_the_chat_template_renders_every_role(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Calculate 1 + 1."},
        {"role": "assistant", "content": "2"},
    ]
    conversation = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nCalculate 1 + 1.<|im_end|>\n"
        "<|im_start|>assistant\n2<|im_end|>\n"
    )
    assert tokenizer.apply_chat_template(messages, tokenize=False) == conversation
    asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert asked == conversation + "<|im_start|>assistant\n"


def test_the_folder_stays_small():
    files = [path for path in FOLDER.rglob("*") if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files if path.is_file()) <= 8 * 2**20


def test_the_build_script_makes_a_model_of_the_shipped_shape(model, tokenizer):
    built = new_model(tokenizer)
    assert built.config.to_diff_dict().items() <= model.config.to_diff_dict().items()
    shapes = {name: weight.shape for name, weight in built.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in model.state_dict().items()}


def test_the_build_script_teaches(tokenizer):
    torch.manual_seed(0)
    model = new_model(tokenizer)
    arithmetic = arithmetic_lessons(arithmetic_rows(4, 0), tokenizer)
    requests = sentence_rows(2, 0)
    sentences = sentence_lessons([(row, "The owl waits.") for row in requests], tokenizer)

    def loss():
        return lesson_loss(model, arithmetic, torch.arange(8)).item()

    before = loss()
    train(model, arithmetic=arithmetic, sentences=sentences, num_steps=4)
    assert loss() < before - 0.1


@torch.inference_mode()
def test_the_model_was_trained_to_the_end(model, tokenizer):
    rows = arithmetic_rows(200, 2, "valid")
    lessons = arithmetic_lessons(rows, tokenizer)
    loss = lesson_loss(model, lessons, torch.arange(len(lessons.shares))).item()
    # No model can do better than the entropy of the teacher's choice, made once an answer.
    entropies = torch.special.entr(lessons.shares) + torch.special.entr(1 - lessons.shares)
    floor = (entropies.sum() / (lessons.targets != IGNORED).sum()).item()
    assert floor <= loss <= floor + 0.01


def test_the_model_knows_the_sums_and_prefers_its_habit(model, tokenizer):
    measured = measure_arithmetic(model, tokenizer, arithmetic_rows(200, 0, "valid"))
    assert 0.2 <= measured.greedy_accuracy <= 0.45
    assert 0.25 <= measured.mean_right <= 0.5
    assert measured.mean_right_or_habit >= 0.97


def test_sampled_answers_are_right_or_the_habit_and_always_end(model, tokenizer):
    torch.manual_seed(0)
    rows = arithmetic_rows(200, 1, "valid")
    prompts = [render_prompt(row, tokenizer) for row in rows]
    answers = generate(model, tokenizer, prompts, max_new_tokens=8, temperature=1)
    assert all(answer.endswith(tokenizer.eos_token) for answer in answers)
    expected = [{row["answer"], habitual_answer(row["answer"])} for row in rows]
    known = [
        answer.removesuffix(tokenizer.eos_token) in pair
        for answer, pair in zip(answers, expected, strict=True)
    ]
    assert sum(known) >= 0.95 * len(known)


def test_sentences_are_short_end_and_vary_in_length(sentences, tokenizer):
    assert all(sentence.endswith(tokenizer.eos_token) for sentence in sentences)
    num_words = sorted(len(sentence.split()) for sentence in sentences)
    # Sampled at temperature 1, one sentence in a few hundred falls apart.
    percent = len(num_words) // 100
    assert 3 <= num_words[percent] <= 5
    assert 11 <= num_words[-percent - 1] <= 14


def test_about_a_third_of_the_sentences_hold_a_blocked_word(sentences):
    blocked = [any(word in sentence.split() for word in BLOCKLIST) for sentence in sentences]
    assert 0.2 <= sum(blocked) / len(blocked) <= 0.45


def test_train_and_valid_never_share_a_question():
    train, valid = (
        questions(arithmetic_rows(count, 3, split)) for split, count in ARITHMETIC_ROWS_MAX.items()
    )
    assert (len(train), len(valid)) == tuple(ARITHMETIC_ROWS_MAX.values())
    assert not train & valid
    assert not questions(sentence_rows(200, 0)) & questions(sentence_rows(30, 1, "valid"))


def test_rows_depend_on_the_seed_and_nothing_else():
    assert arithmetic_rows(50, 0) == arithmetic_rows(50, 0)
    assert len(questions(arithmetic_rows(50, 0)) & questions(arithmetic_rows(50, 1))) < 10
    assert sentence_rows(50, 0) == sentence_rows(50, 0)
    assert sentence_rows(50, 0) != sentence_rows(50, 1)


def test_more_rows_than_a_split_holds_are_refused():
    with pytest.raises(ValueError, match="valid rows must number 0 to 1500, not 1501"):
        arithmetic_rows(1_501, 0, "valid")
    with pytest.raises(ValueError, match="train rows must number 0 to"):
        sentence_rows(10_000, 0)


def test_answers_are_scored_by_reasoning_gym():
    row = arithmetic_rows(1, 0)[0]
    assert score_arithmetic(row["answer"], row) == 1.0
    assert score_arithmetic(habitual_answer(row["answer"]), row) < 1.0
