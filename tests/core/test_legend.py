"""Class schemes: those that ship, those of users, and those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_rasters import RESOURCES, scheme

from sparsevit.errors import InputError
from sparsevit.geodata.legend import NODATA, ClassScheme, LandClass, load_scheme, parse_scheme

SHIPPED = {"dfc2020": 10, "igbp_simplified": 10, "worldcover": 11, "dynamic_world": 9, "corine_level1": 5}


@pytest.mark.parametrize(("name", "classes"), SHIPPED.items())
def test_shipped_schemes_load_and_their_classes_look_different(name: str, classes: int) -> None:
    loaded = scheme(name)
    assert len(loaded.classes) == classes
    assert len({c.color for c in loaded.classes}) == classes
    assert NODATA not in loaded.codes


def test_every_scheme_file_is_a_scheme_or_a_mapping() -> None:
    for path in (RESOURCES / "schemes").glob("*.json"):
        assert path.stem in SHIPPED or "_to_" in path.stem


@given(
    st.lists(st.integers(0, 254), min_size=1, max_size=20, unique=True),
    st.integers(0, 0xFFFFFF),
)
def test_a_scheme_survives_json(codes: list[int], color: int) -> None:
    classes = tuple(LandClass(c, f"Class {c}", f"#{color:06x}") for c in codes)
    written = ClassScheme("mine", classes)
    assert parse_scheme(written.to_json(), "test") == written


def test_a_csv_scheme_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("code,name,color\n3, Moor ,#aabbcc\n1,Wood,#00ff00\n", encoding="utf-8-sig")
    assert load_scheme(path) == ClassScheme("mine", (LandClass(3, "Moor", "#aabbcc"), LandClass(1, "Wood", "#00ff00")))


def test_classes_are_found_by_name_in_any_case_and_by_code() -> None:
    dfc = scheme()
    assert dfc.find("  wAter").code == dfc.find(10).code == dfc.find("10.0").code == 10
    assert dfc.subset(["Water", "forest"]).names == ["Forest", "Water"]
    with pytest.raises(InputError, match=r"'DFC2020' has no class 'lava'"):
        dfc.find("lava")


def test_field_names_are_plain() -> None:
    assert LandClass(1, "Bare / sparse vegetation", "#000000").field == "has_bare_sparse_vegetation"
    assert LandClass(1, "Wäld", "#000000").field == "has_w_ld"


def test_classes_may_be_named_in_any_script(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("code,name,color\n3,Лес,#00ff00\n7,Вода,#0000ff\n9,森林 2,#ff0000\n", "utf-8")
    found = load_scheme(path)
    assert found.names == ["Лес", "Вода", "森林 2"]
    assert [c.field for c in found.classes] == ["has_class_3", "has_class_7", "has_class_9"]
    assert parse_scheme(found.to_json(), "s") == found


def entry(code: object = 1, name: str = "A", color: str = "#000000") -> dict[str, object]:
    return {"code": code, "name": name, "color": color}


@pytest.mark.parametrize(
    "classes",
    [
        [],
        [entry(), entry()],
        [entry(1, "A"), entry(2, "a")],
        [entry(255)],
        [entry(-1)],
        [entry(name="")],
        [entry(color="red")],
        [entry(code="x")],
        [{"code": 1}],
        None,
    ],
)
def test_wrong_schemes_are_refused_by_name(tmp_path: Path, classes: object) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({"classes": classes}))
    with pytest.raises(InputError, match=r"wrong\.json"):
        load_scheme(path)


def test_missing_and_unreadable_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_scheme(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x9c")
    with pytest.raises(InputError, match=r"cannot be read|is not a class scheme"):
        load_scheme(tmp_path / "binary.json")
    (tmp_path / "half.csv").write_text("code,name\n1,A\n")
    with pytest.raises(InputError, match="code, name, color"):
        load_scheme(tmp_path / "half.csv")
