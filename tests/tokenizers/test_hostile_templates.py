"""Templates that ask for too much: one message each, soon and with little memory."""

import resource
import time

import pytest

from tfllm.tokenizers import TokenizerError
from tfllm.tokenizers.chat import ChatTemplate

MESSAGES = [{"role": "user", "content": "hi"}]
LOOP = "{% for i in range(99999) %}"
END = "{% endfor %}"
KEEP = "{% set n = namespace(x=START) %}" + LOOP
HOSTILE = {
    "nested loops": LOOP + LOOP + END + END,
    "a loop in a macro": "{% macro m() %}" + LOOP + LOOP + "a" + END + END + "{% endmacro %}{{ m() }}",
    "a recursive loop": "{% for a in [1] recursive %}{% if loop.depth < 4 %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
    "a recursive macro": "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "a tree of macros": "{% macro m(x) %}{% if x %}{{ m(x - 1) }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "a block in itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "much text": LOOP + "x" * 90_000 + END,
    "much text in a macro": "{% macro m() %}" + LOOP + "x" * 90_000 + END + "{% endmacro %}{{ m() }}",
    "a long variable": "{% set x = 'y' * 100000 %}" + LOOP + "{{ x }}" + END,
    "a set block": "{% set x %}" + LOOP + "y" * 1000 + END + "{% endset %}",
    "% width": "{{ '%2000000000d' % 1 }}",
    "% precision": "{{ '%.2000000000f' % 1 }}",
    "% star": "{{ '%*d' % (2000000000, 1) }}",
    "% name": "{{ '%(a)2000000000d' % {'a': 1} }}",
    "% many": "{{ ('%9999d' * 90000) % messages }}",
    "% of a filter": "{{ '%2000000000d' | format(1) }}",
    "% of a map": "{{ ['%2000000000d'] | map('format', 1) | list }}",
    "% of long values": "{{ ('%(a)s' * 90000) % {'a': 'x' * 90000} }}",
    "times": "{{ 'x' * 10 ** 9 }}",
    "times a list": "{{ ([1] * 10 ** 9) | length }}",
    "times lists": "{% set a = [1] * 1000 %}{% set a = [a] * 1000 %}{% set a = [a] * 1000 %}{{ a == a }}",
    "center": "{{ 'x' | center(10 ** 9) }}",
    "center method": "{{ 'x'.center(10 ** 9) }}",
    "center of a map": "{{ ['x'] | map('center', 10 ** 9) | list }}",
    "zfill": "{{ 'x'.zfill(10 ** 9) }}",
    "expandtabs": "{{ '\t'.expandtabs(tabsize=10 ** 9) }}",
    "format": "{{ '{:>999999999}'.format(1) }}",
    "format by argument": "{{ '{:>{w}}'.format(1, w=999999999) }}",
    "format_map": "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "format many": "{{ ('{0:>9999}' * 90000).format(1) }}",
    "indent": "{{ ('\n' * 90000) | indent(90000) }}",
    "indent of JSON": "{{ [1] | tojson(indent=10 ** 9) }}",
    "replace": "{{ ('a' * 90000) | replace('a', 'b' * 90000) }}",
    "replace method": "{{ ('a' * 90000).replace('a', 'b' * 90000) }}",
    "join": "{{ range(99999) | join('b' * 90000) }}",
    "join of a generator": "{{ range(99999) | map('string') | join('b' * 90000) }}",
    "join method": "{{ ('b' * 90000).join(range(99999) | map('string')) }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "squares": KEEP.replace("START", "2") + "{% set n.x = n.x * n.x %}" + END,
    "doubled text": KEEP.replace("START", "'a'") + "{% set n.x = n.x ~ n.x %}" + END,
    "added text": KEEP.replace("START", "'a'") + "{% set n.x = n.x + n.x %}" + END,
    "doubled list": KEEP.replace("START", "[1]") + "{% set n.x = n.x + n.x %}" + END,
    "lists of lists": KEEP.replace("START", "[1]") + "{% set n.x = [n.x, n.x] %}" + END + "{{ n.x }}",
    "tuples of tuples": KEEP.replace("START", "(1,)") + "{% set n.x = (n.x, n.x) %}" + END + "{{ {n.x: 1} }}",
    "mappings of mappings": KEEP.replace("START", "{}")
    + "{% set n.x = dict(a=n.x, b=n.x) %}"
    + END
    + "{{ n.x }}",
    "batches of batches": KEEP.replace("START", "[1]")
    + "{% set n.x = [1] | batch(1000, n.x) | list %}"
    + END,
    "kept texts": KEEP.replace("START", "[]") + "{% set n.x = n.x + ['a' * 1000000 ~ i] %}" + END,
    "kept words": KEEP.replace("START", "[]") + "{% set n.x = n.x + [('a ' * 400000).split()] %}" + END,
    "batch": "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "slice": "{{ [1] | slice(10 ** 9) | list }}",
    "round": "{{ 5 | round(-10 ** 9) }}",
    "a sum of lists": "{{ ([[1] * 1000] * 1000) | sum(start=[]) }}",
    "sorting": LOOP + "{{ range(99999) | sort(reverse=true) | first }}" + END,
    "choosing": LOOP + "{{ range(99999) | select('none') | list }}" + END,
    "comparing": "{% set a = ['a' * 1000] * 3000 %}" + LOOP + "{% if a == a | list %}{% endif %}" + END,
    "a namespace": "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
    "the time": "{{ strftime_now('%c' * 1000000) }}",
    "bytes": "{{ (5).to_bytes(10 ** 9, 'big') }}",
    "translate": "{{ ('a' * 90000).translate({97: 'b' * 90000}) }}",
    "fromkeys": "{{ {}.fromkeys(range(99999), 'x') }}",
    "lipsum": "{{ lipsum(100000) }}",
    "itself": "{% include 'chat_template.jinja' %}",
    "parentheses": "{{ " + "(" * 40_000 + "1" + ")" * 40_000 + " }}",
    "brackets": "{{ " + "[" * 40_000 + "]" * 40_000 + " }}",
    "ifs": "{% if true %}" * 3000 + "{% endif %}" * 3000,
    "fors": "{% for a in [1] %}" * 30 + END * 30,
    "a chain": "{{ 1" + "+1" * 40_000 + " }}",
    "filters": "{{ 1" + "|abs" * 20_000 + " }}",
    "elifs": "{% if a %}" + "{% elif a %}" * 7_000 + "{% endif %}",
    "digits": "{{ " + "9" * 90_000 + " }}",
    "a long file": "x" * 1_000_000,
    "openings": "{%" * 40_000,
    "a long message": "{{ raise_exception('x' * 1000000) }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_one_message_soon(name):
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    with pytest.raises(TokenizerError, match="the chat template") as caught:
        ChatTemplate(HOSTILE[name]).render(MESSAGES)
    assert len(str(caught.value)) < 700 and "\n" not in str(caught.value)
    assert time.thread_time() - start < 10
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024 < 400


HONEST = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content | trim + '<|im_end|>\n' }}{% endfor %}",
    # Each message asks the whole chat something, as some published ones do.
    "looks back": "{% for m in messages %}{% if m == (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}[LAST]"
    "{% endif %}{{ m.content }}{% endfor %}",
    "a loop in a loop": "{% for m in messages %}{% set n = namespace(k=0) %}{% for o in messages[:100] %}{% if o.role == m.role %}"
    "{% set n.k = n.k + 1 %}{% endif %}{% endfor %}{{ n.k }}{{ m.content }}{% endfor %}",
    "collects": "{% set n = namespace(text='', all=[]) %}{% for m in messages %}{% set n.text = n.text ~ m.content %}"
    "{% set n.all = n.all + [m] %}{% endfor %}{{ n.text }}{{ n.all | length }}",
    "macros": "{% macro say(m, all) %}{{ '%-10s' % m.role }}{{ '{}'.format(m.content) }}{{ all | length }}{% endmacro %}"
    "{% for m in messages %}{{ say(m, messages) }}{{ m | tojson(indent=2) }}{% endfor %}",
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_templates_with_a_thousand_messages_meet_no_limit(name):
    roles = ["user", "assistant"]
    chat = [{"role": roles[i % 2], "content": f"{i} " + "words of it " * 100} for i in range(1000)]
    assert "999 words of it" in ChatTemplate(HONEST[name]).render(chat)


def test_limits_grow_with_what_goes_in():
    long = "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}"
    assert len(ChatTemplate(long).render([{"role": "user", "content": "x" * 6_000_000}])) == 12_000_000


def test_loops_keep_what_templates_know_of_them():
    source = (
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ '.' if loop.last else ',' }}{{ loop.revindex0 }}"
        "{% if loop.nextitem is defined %}{{ loop.nextitem.role }}{% endif %}{{ loop.cycle('a', 'b') }} {% endfor %}"
        "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% else %}none{% endfor %}{% for x in [] %}{% else %} none{% endfor %}"
        "{% for x in [3, 1] if x > 1 %}{{ x }}{% endfor %}{% for c in 'ab' %}{{ c }}{% endfor %}"
    )
    made = ChatTemplate(source).render([*MESSAGES, {"role": "assistant"}])
    assert made == "1/2,1assistanta 2/2.0b a1 none3ab"
