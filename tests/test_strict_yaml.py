"""YAML into dataclasses: what is read, what is refused, and how the message says so."""

import dataclasses

import pytest

from vqathinker_jax.strict_yaml import ConfigError, Settings, flatten, to_yaml


@dataclasses.dataclass(frozen=True)
class Size:
    width: int = 7
    height: int = 11

    def __post_init__(self):
        for name in ("width", "height"):
            if getattr(self, name) < 1:
                raise ValueError(f"Size.{name} must be at least 1, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class Pen:
    colour: str
    rate: float = 0.5
    is_wet: bool = False
    dash: str | tuple[float, float] = "plain"
    marks: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Drawing:
    pen: Pen
    size: Size = Size(height=13)
    second: Pen | None = None
    title: str | None = None
    copies: int = 1

    def __post_init__(self):
        if self.copies > self.size.width:
            raise ValueError(f"copies {self.copies} is above size.width {self.size.width}")


NAMED = {Size: {"small": Size(2, 3), "large": Size(17, 19)}}
MINIMAL = "pen: {colour: red}\n"


def load(tmp_path, text=MINIMAL, *arguments):
    path = tmp_path / "draw.yaml"
    path.write_text(text, encoding="utf-8")
    settings = Settings(Drawing, NAMED)
    settings.read_file(path)
    settings.read_arguments(arguments)
    return settings.build()


def refuse(tmp_path, text=MINIMAL, *arguments):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(tmp_path) + "/", "")


def test_what_is_not_set_has_its_default(tmp_path):
    assert load(tmp_path) == Drawing(Pen("red"))


def test_sections_lists_names_and_null(tmp_path):
    text = """
pen:
  colour: "12"      # quoted, so text
  rate: 3
  is_wet: true
  dash: [1, 2.5]
  marks: [2, 3, 5]
size: large
second: {colour: blue}
title: null
"""
    pen = Pen("12", 3.0, True, (1.0, 2.5), (2, 3, 5))
    assert load(tmp_path, text) == Drawing(pen, Size(17, 19), Pen("blue"))
    assert isinstance(load(tmp_path, text).pen.rate, float)


@pytest.mark.parametrize("text", ["1e-6", "1E-6", "1.0e-6", "+.000001", "0.000001"])
def test_every_way_to_write_a_float(tmp_path, text):
    assert load(tmp_path, f"pen: {{colour: red, rate: {text}}}").pen.rate == 1e-6


def test_a_section_given_in_part_changes_the_default_of_its_place(tmp_path):
    assert load(tmp_path, MINIMAL + "size: {width: 5}").size == Size(5, 13)
    assert load(tmp_path, MINIMAL + "size: small", "--size.width", "5").size == Size(5, 3)


def test_arguments_override_the_file(tmp_path):
    text = MINIMAL + "title: from the file\ncopies: 2\n"
    drawing = load(tmp_path, text, "--copies=3", "--pen.rate", "-1e-3", "--second", "{colour: tan}")
    assert drawing == Drawing(Pen("red", -1e-3), second=Pen("tan"), title="from the file", copies=3)
    assert load(tmp_path, text, "--title", "null").title is None
    assert load(tmp_path, text, "--title=a=b").title == "a=b"
    assert load(tmp_path, MINIMAL, "--second.colour", "tan", "--second", "null").second is None


def test_a_file_extends_another(tmp_path):
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "root.yaml").write_text("pen: {colour: red, rate: 0.1}\ncopies: 2\n")
    (tmp_path / "bases" / "base.yaml").write_text("extends: root.yaml\nsize: small\n")
    text = "extends: bases/base.yaml\npen: {rate: 0.2}\nsize: {width: 5}\n"
    assert load(tmp_path, text) == Drawing(Pen("red", 0.2), Size(5, 3), copies=2)


def test_errors_of_extended_files_name_them(tmp_path):
    (tmp_path / "base.yaml").write_text("pen:\n  colour: red\n  rat: 1\n")
    message = refuse(tmp_path, "extends: base.yaml\n")
    assert message == "base.yaml, line 3: pen.rat: unknown key; did you mean pen.rate?"
    assert "extends itself" in refuse(tmp_path, "extends: draw.yaml\n")
    assert refuse(tmp_path, "extends: gone.yaml") == (
        "gone.yaml: cannot be read (No such file or directory)"
    )
    # A value of the base that only the extending file makes impossible.
    (tmp_path / "base.yaml").write_text("pen: {colour: red}\n\ncopies: 3\n")
    message = refuse(tmp_path, "extends: base.yaml\nsize: small\n")
    assert message == "base.yaml, line 3: copies: copies 3 is above size.width 2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "pen: {colour: red}\ncopy: 2",
            "draw.yaml, line 2: copy: unknown key; did you mean copies?",
        ),
        (
            "pen:\n  colour: red\n  height: 3",
            "draw.yaml, line 3: pen.height: unknown key; did you mean size.height?",
        ),
        (
            MINIMAL + "xyz: 1",
            "draw.yaml, line 2: xyz: unknown key; expected one of pen, size, second, title, copies,"
            " extends, before",
        ),
        (MINIMAL + "copies: 2\ncopies: 3", "draw.yaml, line 3: copies: is given twice"),
        ("pen: {colour: red, colour: red}", "draw.yaml, line 1: pen.colour: is given twice"),
        (MINIMAL + "copies: 1.0", "draw.yaml, line 2: copies: expected a whole number, got '1.0'"),
        (MINIMAL + "copies: 010", "draw.yaml, line 2: copies: expected a whole number, got '010'"),
        (MINIMAL + "copies: '2'", "draw.yaml, line 2: copies: expected a whole number, got '2'"),
        (
            MINIMAL + "copies: true",
            "draw.yaml, line 2: copies: expected a whole number, got 'true'",
        ),
        (MINIMAL + "copies:", "draw.yaml, line 2: copies: expected a whole number, got nothing"),
        (
            MINIMAL + "title: 12",
            "draw.yaml, line 2: title: expected text or null, got '12' (as text, put it in quotes:"
            ' "12")',
        ),
        (
            "pen: {colour: red, rate: .nan}",
            "draw.yaml, line 1: pen.rate: expected a number, got '.nan'",
        ),
        (
            "pen: {colour: red, rate: 1e999}",
            "draw.yaml, line 1: pen.rate: expected a number, got '1e999'",
        ),
        (
            "pen: {colour: red, is_wet: 1}",
            "draw.yaml, line 1: pen.is_wet: expected true or false, got '1'",
        ),
        (
            "pen: {colour: red, dash: [1]}",
            "draw.yaml, line 1: pen.dash: expected text or a list [a number, a number], got a list"
            " of 1",
        ),
        (
            MINIMAL + "title: [a]",
            "draw.yaml, line 2: title: expected text or null, got a list of 1",
        ),
        (
            MINIMAL + "second: blue",
            "draw.yaml, line 2: second: expected a section with colour, rate, is_wet, dash, marks"
            " or null, got 'blue'",
        ),
        (
            MINIMAL + "size: larg",
            "draw.yaml, line 2: size: expected small, large or its settings, got 'larg'; did you"
            " mean large?",
        ),
        ("pen: {rate: 1}", "draw.yaml: pen.colour: is missing, expected text"),
        ("", "draw.yaml: pen.colour: is missing, expected text"),
        ("- 1", "draw.yaml: expected `key: value` lines, got a list of 1"),
        (
            "pen: [",
            "draw.yaml, line 1: not YAML: expected the node content, but found '<stream end>'",
        ),
        ("pen: &a {colour: red}\nsecond: *a", "draw.yaml, line 2: aliases (*name) are not read"),
        (
            MINIMAL + "title: !!python/name:os.system ''",
            "draw.yaml, line 2: title: expected text or null, got nothing",
        ),
        (
            MINIMAL + "size:\n  width: 0",
            "draw.yaml, line 3: size.width: width must be at least 1, got 0",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, text, message):
    assert refuse(tmp_path, text) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pen.colr", "tan"], "pen.colr: unknown key; did you mean pen.colour?"),
        (["--rate", "1"], "rate: unknown key; did you mean pen.rate?"),
        (["--copies"], "--copies: needs a value"),
        (["--copies", "--title", "x"], "--copies: needs a value"),
        (["--copies="], "--copies: needs a value"),
        (["copies", "2"], "expected --key value, got 'copies'"),
        (["--copies", "two"], "copies: expected a whole number, got 'two'"),
        (["--copies", "9"], "copies: copies 9 is above size.width 7"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(tmp_path, arguments, message):
    assert refuse(tmp_path, MINIMAL, *arguments) == f"command line: {message}"


def test_files_that_are_no_text(tmp_path):
    settings = Settings(Drawing)
    (tmp_path / "latin.yaml").write_bytes(b"title: caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        settings.read_file(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        settings.read_file(tmp_path)
    assert "nested too deeply" in refuse(tmp_path, "pen: " + "[" * 5000)


def test_what_is_written_reads_back_equal(tmp_path):
    drawing = Drawing(
        Pen("1e-6", 1e-300, True, (0.1, 1e22), (3, -5)),
        Size(17, 3),
        Pen("no", 0.1 + 0.2),
        title="ünï: # 'quoted' \"twice\"\n2024-01-01",
        copies=2,
    )
    assert load(tmp_path, to_yaml(drawing)) == drawing


def test_flattening_names_every_setting():
    assert flatten(Drawing(Pen("red"), second=Pen("tan")))["second.colour"] == "tan"
    assert set(flatten(Drawing(Pen("red")))) == {
        *(f"pen.{name}" for name in ("colour", "rate", "is_wet", "dash", "marks")),
        *("size.width", "size.height", "second", "title", "copies"),
    }
