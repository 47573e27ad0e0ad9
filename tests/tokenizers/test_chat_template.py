"""Chat templates: the text they make, which of its tokens the assistant wrote, and what strangers may not do."""

import pytest

from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer, TokenizerError, read_tokenizer
from tfllm.tokenizers.chat import ChatTemplate, encode_chat

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "[A]{%- generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}[U]{{ message.content }}{% endif %}{% endfor %}"
)
NAMES = ("<|im_start|>", "<|im_end|>")
CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there."},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]


def template(source=CHATML, **roles):
    return ChatTemplate(source, roles={"eos_token": "<|im_end|>", **roles}, special_tokens=NAMES)


@pytest.fixture(scope="module")
def chat_tokenizer():
    tokenizer = ByteBPETokenizer.train(
        ["Hello there. See you. Bye, user and assistant."] * 5,
        vocab_size=300,
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def test_a_chat_becomes_text():
    text = template().render(CHAT[:1], add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert template().render([]) == ""


def test_roles_tools_variables_and_functions_are_there():
    source = "{{ bos_token }}{{ tools | tojson }}{{ mode }}{{ strftime_now('%Y') | length }}{% break %}"
    source = "{% for m in messages %}" + source + "{% endfor %}"
    made = template(source, bos_token="<s>").render(CHAT, tools=[{"name": "<é>"}], mode="fast")
    assert made == '<s>[{"name": "<é>"}]fast4'


def test_lines_of_blocks_leave_no_blank_lines():
    source = "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}"
    assert template(source).render(CHAT[:2]) == "Hi\nHello there.\n"


@pytest.mark.parametrize("source", [CHATML, MARKED])
def test_answers_are_found_in_the_text(source):
    text, spans = template(source).render_with_answers(CHAT)
    assert text == template(source).render(CHAT)
    assert [text[start:end] for start, end in spans] == ["Hello there.<|im_end|>", "See you.<|im_end|>"]


def test_an_answer_that_repeats_the_question_is_found_where_it_stands():
    chat = [{"role": "user", "content": "same"}, {"role": "assistant", "content": "same"}]
    text, [(start, end)] = template().render_with_answers(chat)
    assert (text[start:end], start) == ("same<|im_end|>", text.rindex("same"))


def test_a_template_that_thinks_only_in_the_last_answer():
    source = CHATML.replace(
        "message['content'] +",
        "('<think></think>' if loop.last and message.role == 'assistant' else '') + message['content'] +",
    )
    text, spans = template(source).render_with_answers(CHAT)
    assert [text[start:end] for start, end in spans] == [
        "Hello there.<|im_end|>",
        "<think></think>See you.<|im_end|>",
    ]


def test_an_answer_without_words_ends_at_the_end_of_its_turn():
    chat = [CHAT[0], {"role": "assistant", "content": ""}]
    text, [(start, end)] = template().render_with_answers(chat)
    assert text[start:end] == "<|im_end|>"


def test_a_template_that_hides_answers_is_told():
    with pytest.raises(TokenizerError, match=r"messages\[1\]: the chat template does not render this answer"):
        template(
            "{% for m in messages %}{% if m.role == 'user' %}x{% endif %}{% endfor %}"
        ).render_with_answers(CHAT)


def test_tokens_of_answers_are_marked(chat_tokenizer):
    ids, mask = encode_chat(chat_tokenizer, CHAT)
    assert chat_tokenizer.decode(ids, skip_special_tokens=False) == template().render(CHAT)
    answered = [token_id for token_id, answer in zip(ids, mask, strict=True) if answer]
    assert (
        chat_tokenizer.decode(answered, skip_special_tokens=False)
        == "Hello there.<|im_end|>See you.<|im_end|>"
    )
    assert chat_tokenizer.special_tokens["<|im_start|>"] in ids


def test_the_template_survives_saving(chat_tokenizer, tmp_path):
    chat_tokenizer.save(tmp_path)
    again = read_tokenizer(tmp_path)
    assert again.chat_template == CHATML
    assert encode_chat(again, CHAT) == encode_chat(chat_tokenizer, CHAT)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for", "is not Jinja (line 1: "),
        ("{{ ''.__class__.__mro__ }}", "does what is not allowed: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "does what is not allowed"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        (
            "{{ raise_exception('roles must alternate') }}",
            "cannot render these messages: roles must alternate",
        ),
        ("{{ messages[0].content + 1 }}", "cannot render these messages"),
        ("{{ nothing.there }}", "'nothing' is undefined"),
        ("{% include 'x' %}", "cannot render these messages"),
    ],
)
def test_bad_templates(source, words):
    with pytest.raises(TokenizerError) as caught:
        template(source).render(CHAT)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("Hi", "messages='Hi' must be a list"),
        ({"role": "user"}, "must be a list"),
        (["Hi"], r"messages[0]='Hi' must be a mapping with a role"),
        ([{"content": "Hi"}], "must be a mapping with a role"),
        ([{"role": 3}], "must be a mapping with a role"),
    ],
)
def test_bad_messages(messages, words):
    with pytest.raises(TokenizerError) as caught:
        template().render(messages)
    assert words in str(caught.value)


def test_a_tokenizer_without_a_template():
    with pytest.raises(
        TokenizerError, match="has no chat template; take a checkpoint that was tuned for chat"
    ):
        ChatTemplate.of(ByteTokenizer())
