"""The matrix as a page: nothing is lost on the way in, nothing breaks out, and it stays small."""

import json
import re
from html.parser import HTMLParser
from itertools import cycle, islice, product
from typing import Any
from urllib.parse import parse_qs

import pytest

from qap.matrix.html.page import HERE, NOT_THERE, SCRIPTS, VERDICTS, pack, render

AXES = {
    "machine": ("q35", "microvm", "s390-ccw-virtio"),
    "device": ("virtio-blk", "vhost-user-blk", "vhost-user-fs", "vhost-vsock", "virtio-net"),
    "backend": ("in QEMU", "vhost-user", "vhost-user -ACCESS_PLATFORM"),
    "viommu": ("none", "intel-iommu", "intel-iommu,pt=on", "virtio-iommu", "smmuv3"),
    "order": ("before", "after"),
    "translation": ("off", "on"),
    "iommu_platform": ("off", "on"),
    "interface": ("modern", "transitional", "legacy"),
    "driver": ("accepts", "refuses", "refuses-then-driver-ok", "never-acks"),
    "plug": ("cold", "hot"),
}
REFUSAL = "device iommu_platform=true is not supported by the device: back-end '{id}' lacks bit 33"


def cell(name: str = "q35/hot", *, side: str = "fork", **fields: Any) -> dict[str, Any]:
    """A cell as the matrix hands it over; `fields` go over its own."""
    return {
        "cell": name,
        "axes": {"machine": "q35", "plug": "hot"},
        "verdict": "match",
        "skip": "",
        "expected": {"outcome": "works", "why": "the bus does not translate", "offered": True},
        "seen": {"outcome": "works", "features": [28, 32, 33], "offered": True},
        "problems": [],
        "gap": None,
        "qemu": ["qemu-system-x86_64 -nodefaults -machine q35"],
        "repro": f"./qap repro --build {side} --cell '{name}'",
        "detail": "",
        "seconds": 0.004,
        "fresh": True,
        **fields,
    }


def many(side: str, number: int) -> list[dict[str, Any]]:
    """Cells of each kind, with commands of the usual length; the same ids on each side."""
    marks = {"fork": (7, 401, 0, 12, 1), "base": (5, 307, 3, 12, 1)}[side]
    cells = []
    for at, values in enumerate(islice(cycle(product(*AXES.values())), number)):
        axes = dict(zip(AXES, values, strict=True))
        name = "/".join(values) + ("" if at < 8640 else "/again")
        verdict = VERDICTS[
            next((n for n, every in enumerate(marks) if every and not at % every), 4)
        ]
        refused = verdict in {"known", "mismatch"}
        cells.append(
            cell(
                name,
                side=side,
                axes=axes,
                verdict=verdict,
                qemu=[command(axes), f'{{"execute": "device_add", "id": "{at}"}}'],
                seen={
                    "outcome": "refused" if refused else "works",
                    "error": REFUSAL.format(id=at) if refused else "",
                    "features": [] if refused else [28, 29, 32, 33],
                    "offered": not refused,
                },
                problems=["refused, though the bus does not translate"] if refused else [],
                gap="refusal-ignored" if verdict == "known" else None,
                skip=f"{axes['machine']} has no {axes['viommu']}" if verdict == "skip" else "",
                detail="Traceback: the qtest socket closed" if verdict == "error" else "",
                seconds=round(0.002 + at % 97 / 10_000, 4),
            )
        )
    return cells


def command(axes: dict[str, str]) -> str:
    device = f"{axes['device']}-pci,iommu_platform={axes['iommu_platform']}"
    return (
        f"qemu-system-x86_64 -nodefaults -machine {axes['machine']},accel=qtest,memory-backend=ram "
        "-display none -object memory-backend-memfd,id=ram,size=128M,share=on "
        f"-device {axes['viommu']},intremap=off,device-iotlb=on "
        "-chardev socket,id=c0,path=back.sock "
        f"-device {device},id=dut,chardev=c0,disable-legacy=on,addr=4.0 "
        "-qtest stdio -qmp unix:qmp.sock -S"
    )


class Reader(HTMLParser):
    """What a browser's parser makes of the page: elements, and what is in scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = None

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data

    @property
    def cells(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(self.scripts[0])
        return read


def page(**sides: list[dict[str, Any]]) -> Reader:
    return Reader(render(sides, title="Matrix", facts={"QEMU": "10.0.13"}))


def unpacked(words: list[str], value: Any) -> Any:
    """A packed value as it was; follows the description in pack, not the code."""
    match value:
        case {"words": numbers}:
            return "".join(words[number] for number in numbers)
        case {"object": items}:
            return {key: unpacked(words, item) for key, item in items.items()}
        case list():
            return [unpacked(words, item) for item in value]
    return value


def row(packed: dict[str, Any], at: int, side: str) -> dict[str, Any]:
    """The fields of one row: the axes, and those of a side."""
    columns = {f"axes.{name}": column for name, column in packed["axes"].items()}
    columns |= packed["sides"][side] | {"cell": packed["ids"]}
    return {
        name: unpacked(packed["words"], column["values"][column["rows"][at]])
        for name, column in columns.items()
        if column["rows"][at] != NOT_THERE
    }


def test_packed_cell_has_all_that_says_something() -> None:
    seen: dict[str, Any] = {
        "outcome": "refused",
        "error": "",
        "features": [],
        "nested": {"a": ["b c"]},
        "x": None,
    }
    sample = cell(seen=seen, problems=["one two", "three"], fresh=False, seconds=0)
    assert row(pack({"fork": [sample]}), 0, "fork") == {
        "cell": "q35/hot",
        "axes.machine": "q35",
        "axes.plug": "hot",
        "verdict": "match",
        "expected.outcome": "works",
        "expected.why": "the bus does not translate",
        "expected.offered": True,
        "seen.outcome": "refused",
        "seen.error": "",
        "seen.features": [],
        "seen.nested": {"a": ["b c"]},
        "problems": ["one two", "three"],
        "qemu": ["qemu-system-x86_64 -nodefaults -machine q35"],
        "repro": "./qap repro --build fork --cell 'q35/hot'",
        "seconds": 0,
        "fresh": False,
    }


@pytest.mark.parametrize(
    "values", [(1, True), (0, False), ("1", 1), (1, 1.0), ([""], [None]), ("[1]", [1])]
)
def test_values_that_python_takes_for_equal_stay_apart(values: tuple[Any, Any]) -> None:
    cells = [cell(str(at), seen={"x": value}) for at, value in enumerate(values)]
    packed = pack({"fork": cells})
    read = [row(packed, at, "fork")["seen.x"] for at in range(2)]
    assert [(type(value), value) for value in read] == [(type(value), value) for value in values]


@pytest.mark.parametrize(
    "text", ["", " ", "/", "//a  b/", "a", "/a b", "naïve\n\tline\u2028", "a/"]
)
def test_string_survives_its_words(text: str) -> None:
    packed = pack({"fork": [cell(seen={"x": text})]})
    assert row(packed, 0, "fork")["seen.x"] == text


def test_sides_share_a_row_by_id_whatever_their_order() -> None:
    fork = [cell("a"), cell("b", verdict="mismatch"), cell("only fork")]
    base = [cell("only base"), cell("b", verdict="known"), cell("a", verdict="skip")]
    packed = pack({"fork": fork, "base": base})
    ids = [unpacked(packed["words"], packed["ids"]["values"][n]) for n in packed["ids"]["rows"]]
    assert ids == ["a", "b", "only fork", "only base"]
    verdicts = {
        name: tuple(row(packed, at, side).get("verdict") for side in ("fork", "base"))
        for at, name in enumerate(ids)
    }
    assert verdicts == {
        "a": ("match", "skip"),
        "b": ("mismatch", "known"),
        "only fork": ("match", None),
        "only base": (None, "match"),
    }
    assert row(packed, 3, "base")["axes.machine"] == "q35"


def test_axis_that_only_some_cells_have_is_not_there_in_the_others() -> None:
    packed = pack({"base": [cell("a"), cell("b", axes={"machine": "q35", "order": "after"})]})
    assert "axes.order" not in row(packed, 0, "base")
    assert row(packed, 1, "base")["axes.order"] == "after"


def test_page_holds_what_was_packed() -> None:
    sides = {"fork": many("fork", 40), "base": many("base", 40)}
    read = page(**sides).cells
    assert read == json.loads(json.dumps(pack(sides)))
    for side, cells in sides.items():
        repeated = [row(read, at, side)["repro"] for at in range(40)]
        assert repeated == [cell["repro"] for cell in cells]


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "<img src=x onerror=alert(1)>",
    "\u2028\u2029",
    "{{ title }}{% raw %}",
    "&lt;b&gt; ' \" \\",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out_of_the_page(text: str) -> None:
    harmless = [tag for tag, _ in page(fork=[cell(gap="x")]).elements]
    hostile = cell(text, axes={"machine": text}, seen={text: text}, gap=text, detail=text)
    read = Reader(render({"fork": [hostile]}, title=text, facts={text: text}))
    assert [tag for tag, _ in read.elements] == harmless
    assert read.text.count(text) == 5  # <title>, <h1>, a fact's name and value, the gap
    fields = row(read.cells, 0, "fork")
    assert [fields[name] for name in ("cell", "axes.machine", "gap", "detail")] == [text] * 4
    assert fields[f"seen.{text}"] == text
    assert "\u2028" not in "".join(read.scripts)


def test_number_that_json_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        page(fork=[cell(seconds=float("nan"))])


def test_counts_by_verdict_side_and_gap_are_there_without_javascript() -> None:
    known = cell("b", verdict="known", gap="refusal-ignored")
    read = page(fork=[cell("a"), cell("b")], base=[cell("a", verdict="skip"), known])
    lines = [re.sub(r"\s+", " ", line) for line in read.text.split("cells", 1)[1].split("\n\n")]
    text = re.sub(r"\s+", " ", " ".join(lines))
    assert " ".join([*VERDICTS, "all"]) in text
    assert "fork 0 0 0 0 2 2" in text
    assert "base 0 0 1 1 0 2" in text
    assert "known gaps fork base refusal-ignored 0 1" in text


def test_count_links_to_the_cells_it_counts() -> None:
    read = page(base=[cell(gap="a&b c", verdict="known")])
    links = [str(attributes["href"]) for tag, attributes in read.elements if tag == "a"]
    linked = [parse_qs(link.removeprefix("#")) for link in links]
    assert {"base.verdict": ["known"]} in linked
    assert {"base.gap": ["a&b c"]} in linked


@pytest.mark.parametrize("side", ["fork", "base"])
def test_one_side_is_enough(side: str) -> None:
    read = page(**{side: [cell("a"), cell("b", verdict="error")]})
    assert list(read.cells["sides"]) == [side]
    assert [row(read.cells, at, side)["verdict"] for at in range(2)] == ["match", "error"]


@pytest.mark.parametrize("sides", [{}, {"fork": []}, {"fork": [], "base": []}])
def test_page_of_no_cells_is_a_page(sides: dict[str, list[dict[str, Any]]]) -> None:
    read = page(**sides)
    assert read.cells["ids"]["rows"] == []
    assert "QEMU" in read.text


def test_every_script_is_in_the_page_once() -> None:
    assert sorted(path.stem for path in (HERE / "script").iterdir()) == sorted(SCRIPTS)
    _, script = page(fork=[cell()]).scripts
    for name in SCRIPTS:
        assert script.count((HERE / f"script/{name}.js").read_text()) == 1


def test_page_asks_for_nothing_from_elsewhere() -> None:
    read = page(fork=[cell()])
    places = [
        value
        for _, attributes in read.elements
        for name, value in attributes.items()
        if name in {"src", "href", "action", "srcset"} and value
    ]
    assert [place for place in places if not place.startswith(("#", "data:,"))] == []
    assert not re.search(r"@import|url\(|https?://", "".join(read.scripts[1:]))
    policy = [a["content"] for _, a in read.elements if "content-security-policy" in str(a).lower()]
    assert "default-src 'none'" in str(policy)


def test_ten_thousand_cells_a_side_stay_under_six_megabytes() -> None:
    sides = {side: many(side, 10_000) for side in ("fork", "base")}
    assert len({cell["cell"] for cell in sides["fork"]}) == 10_000
    written = render(sides, title="Matrix", facts={}).encode()
    assert len(written) < 6_000_000
    assert len(json.dumps(sides)) > 15_000_000  # else this shows nothing
