"""Tables as HTML, Markdown and text."""

from bcaudio.evaluation.report_table import Table


def test_no_text_can_leave_its_cell() -> None:
    table = Table(("key", "text"), [["a.b", "<script>|`x`\n[y](z)"]])
    assert '<td class="short"><code>a.b</code></td><td class="short">&lt;script&gt;|`x`<br>[y](z)</td>' in table.html()
    assert table.markdown().splitlines()[2] == r"| `a.b` | &lt;script&gt;\|\`x\` \[y\](z) |"


def test_a_key_with_markup_is_no_code_in_markdown() -> None:
    assert Table(("key",), [["a`<b>"]]).markdown().splitlines()[2] == r"| a\`&lt;b&gt; |"


def test_columns_align_where_characters_are_two_wide() -> None:
    lines = Table(("a", "b"), [["\u96f6\u96f6", "1"], ["xyz", "10"]], frozenset({1})).text().splitlines()
    assert lines == ["a      b", "----  --", "\u96f6\u96f6   1", "xyz   10"]
