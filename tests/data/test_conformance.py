"""The conformance suite of sources for class folders and tables, and what is special to tables."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.data.source_conformance import Picture, SourceConformance, expected, found, pictures
from tkd_search.data import DataSettings, load_data
from tkd_search.errors import UserError


def encoded(image: np.ndarray) -> bytes:
    target = io.BytesIO()
    Image.fromarray(image).save(target, "PNG")
    return target.getvalue()


def table_of(path: Path) -> DataSettings:
    return DataSettings(name="table", path=str(path))


class TestClassFolders(SourceConformance):
    def write(self, folder: Path, parts: dict[str, list[Picture]]) -> DataSettings:
        for part, given in parts.items():
            for number, (name, image) in enumerate(given):
                place = folder / {"validation": "val"}.get(part, part) / name
                place.mkdir(parents=True, exist_ok=True)
                (place / f"{number:04d}.png").write_bytes(encoded(image))
        return DataSettings(name="imagefolder", path=str(folder))

    def spoil(self, folder: Path, count: int) -> list[str]:
        spoilt = sorted((folder / "train").rglob("*.png"))[:count]
        for file in spoilt:
            file.write_bytes(file.read_bytes()[:80])
        return list(map(str, spoilt))


class OfTables(SourceConformance):
    """Rows of a table: image, label, split; the parts' column is left out where there is one part."""

    def rows(self, folder: Path, parts: dict[str, list[Picture]]) -> list[dict[str, Any]]:
        made = []
        for part, given in parts.items():
            for number, (name, image) in enumerate(given):
                cell = self.image(folder, f"{part}{number:04d}.png", encoded(image))
                split = {"split": part} if len(parts) > 1 else {}
                made.append({"image": cell, "label": name, **split})
        return made

    def image(self, folder: Path, name: str, content: bytes) -> Any:
        """Return the cell of an image."""
        return {"bytes": content, "path": name}


class TestCsv(OfTables):
    def write(self, folder: Path, parts: dict[str, list[Picture]]) -> DataSettings:
        (folder / "files").mkdir(parents=True)
        pd.DataFrame(self.rows(folder, parts)).to_csv(folder / "table.csv", index=False)
        return table_of(folder / "table.csv")

    def test_the_name_of_the_split_column_may_have_capitals_and_spaces(self, tmp_path: Path) -> None:
        given = {"train": pictures(5, ["x", "y"]), "test": pictures(5, ["x", "y"], 1)}
        settings = self.write(tmp_path, given)
        table = tmp_path / "table.csv"
        table.write_text(table.read_text().replace("split", "Split ", 1))
        assert found(load_data(settings), "test") == expected(given["test"])

    def image(self, folder: Path, name: str, content: bytes) -> Any:
        (folder / "files" / name).write_bytes(content)
        return f"files/{name}"

    def spoil(self, folder: Path, count: int) -> list[str]:
        spoilt = sorted((folder / "files").glob("train*"))[:count]
        spoilt[0].write_text("no image")
        for file in spoilt[1:]:
            file.unlink(missing_ok=True)
        return list(map(str, spoilt))


class TestParquet(OfTables):
    def write(self, folder: Path, parts: dict[str, list[Picture]]) -> DataSettings:
        folder.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(self.rows(folder, parts)).to_parquet(folder / "table.parquet")
        return table_of(folder / "table.parquet")

    def spoil(self, folder: Path, count: int) -> list[str]:
        frame = pd.read_parquet(folder / "table.parquet")
        frame.loc[: count - 1, "image"] = [{"bytes": b"no image", "path": "x"}] * count
        frame.to_parquet(folder / "table.parquet")
        return [f"row{number:08d}" for number in range(1, count + 1)]


class TestParquetWithNumbersAndNames(TestParquet):
    """Labels are numbers with names in the schema, as Hugging Face's data sets write them."""

    classes = ("bee", "ant", "10", "9")

    def write(self, folder: Path, parts: dict[str, list[Picture]]) -> DataSettings:
        settings = super().write(folder, parts)
        frame = pd.read_parquet(folder / "table.parquet")
        frame["label"] = [self.classes.index(name) for name in frame["label"]]
        feature = {"names": list(self.classes), "_type": "ClassLabel"}
        schema = json.dumps({"info": {"features": {"label": feature}}})
        pq.write_table(
            pa.Table.from_pandas(frame).replace_schema_metadata({"huggingface": schema}),
            folder / "table.parquet",
        )
        return settings

    def spoil(self, folder: Path, count: int) -> list[str]:
        table = pq.read_table(folder / "table.parquet")
        labels = [-1] * count + table["label"].to_pylist()[count:]
        column = table.schema.get_field_index("label")
        pq.write_table(table.set_column(column, "label", pa.array(labels)), folder / "table.parquet")
        return [f"row {number}: no label" for number in range(1, count + 1)]


class TestHuggingFace(SourceConformance):
    """A folder of save_to_disk, with labels as ``ClassLabel``."""

    classes = ("bee", "ant", "10", "9")

    def write(self, folder: Path, parts: dict[str, list[Picture]]) -> DataSettings:
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(self.classes))}
        )
        splits = {}
        for part, given in parts.items():
            images = [{"bytes": encoded(image), "path": None} for _, image in given]
            rows = {"image": images, "label": [name for name, _ in given]}
            splits[part] = datasets.Dataset.from_dict(rows, features=features)
        datasets.DatasetDict(splits).save_to_disk(folder / "set")
        return DataSettings(name="hf", path=str(folder / "set"))

    def spoil(self, folder: Path, count: int) -> list[str]:
        held = datasets.load_from_disk(folder / "set", keep_in_memory=True)["train"]
        images = held.cast_column("image", datasets.Image(decode=False))["image"]
        broken = [{"bytes": b"no image", "path": None}] * count + list(images)[count:]
        rows = {"image": broken, "label": list(held["label"])}
        made = datasets.Dataset.from_dict(rows, features=held.features)
        shutil.rmtree(folder / "set")
        datasets.DatasetDict({"train": made}).save_to_disk(folder / "set")
        return [f"train{number:08d}" for number in range(count)]


class TestHuggingFaceTexts(TestHuggingFace):
    """Labels are texts, and image files are named by their paths."""

    classes = ("10", "9", "ant", "bee")

    def write(self, folder: Path, parts: dict[str, list[Picture]]) -> DataSettings:
        splits = {}
        for part, given in parts.items():
            (folder / part).mkdir(parents=True)
            paths = [str(folder / part / f"{number:04d}.png") for number in range(len(given))]
            for path, (_, image) in zip(paths, given, strict=True):
                Path(path).write_bytes(encoded(image))
            rows = {"image": paths, "label": [name for name, _ in given]}
            splits[part] = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        datasets.DatasetDict(splits).save_to_disk(folder / "set")
        return DataSettings(name="hf", path=str(folder / "set"))


def hf_set(folder: Path, *splits: str) -> DataSettings:
    """Write splits of ten images of two classes each."""
    made = {}
    for seed, name in enumerate(splits):
        given = pictures(5, ["x", "y"], seed)
        rows = {
            "image": [{"bytes": encoded(image), "path": None} for _, image in given],
            "label": [word for word, _ in given],
        }
        made[name] = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict(made).save_to_disk(folder / "set")
    return DataSettings(name="hf", path=str(folder / "set"))


class TestHuggingFaceSets:
    def test_splits_may_be_named_and_the_others_are_said(self, tmp_path: Path) -> None:
        settings = hf_set(tmp_path, "fold0", "validation", "test")
        with pytest.raises(UserError) as caught:
            load_data(settings)
        assert caught.value.where == "data.train_split"
        assert "fold0" in caught.value.allowed
        data = load_data(replace(settings, train_split="fold0", test_split="validation"))
        assert found(data, "test") == expected(pictures(5, ["x", "y"], 1))
        assert data.notes == (f"data: splits of {settings.path} that are not used: test",)

    def test_images_may_be_texts_that_name_files(self, tmp_path: Path) -> None:
        given = pictures(5, ["x", "y"])
        for number, (_, image) in enumerate(given):
            (tmp_path / f"{number}.png").write_bytes(encoded(image))
        paths = [str(tmp_path / f"{number}.png") for number in range(len(given))]
        rows = {"image": paths, "label": [word for word, _ in given]}
        datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
        assert len(load_data(DataSettings(name="hf", path=str(tmp_path / "set"))).train) > 0

    def numbered_apart(self, folder: Path, train: list[str], test: list[Picture]) -> DataSettings:
        made = {}
        for name, given in (("train", pictures(5, train, 1)), ("test", test)):
            rows = {"image": [encoded(image) for _, image in given], "label": [word for word, _ in given]}
            made[name] = datasets.Dataset.from_dict(rows)
        datasets.DatasetDict(made).class_encode_column("label").save_to_disk(folder / "set")
        return DataSettings(name="hf", path=str(folder / "set"))

    def test_splits_may_number_their_classes_differently(self, tmp_path: Path) -> None:
        given = pictures(5, ["a", "c"])
        data = load_data(self.numbered_apart(tmp_path, ["a", "b", "c"], given))
        assert found(data, "test") == expected(given)

    def test_a_class_that_train_lacks_is_refused(self, tmp_path: Path) -> None:
        settings = self.numbered_apart(tmp_path, ["a", "b"], pictures(5, ["a", "d"]))
        with pytest.raises(UserError, match=r"label_column.*\['d'\] in split test"):
            load_data(settings)

    def test_lists_of_pixels_are_no_images(self, tmp_path: Path) -> None:
        rows = {"image": [[[1, 2], [3, 4]]] * 10, "label": [0, 1] * 5}
        datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
        with pytest.raises(UserError, match="row 0: no image"):
            load_data(DataSettings(name="hf", path=str(tmp_path / "set")))

    def test_a_set_that_was_built_again_is_read_again(self, tmp_path: Path) -> None:
        means = []
        for value in (30, 130):
            (tmp_path / "files").mkdir(exist_ok=True)
            paths = [str(tmp_path / "files" / f"{number}.png") for number in range(20)]
            for path in paths:
                Path(path).write_bytes(encoded(np.full((8, 8, 3), value, dtype=np.uint8)))
            rows = {"image": paths, "label": ["x", "y"] * 10}
            one = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
            one.save_to_disk(tmp_path / "set")
            images = load_data(DataSettings(name="hf", path=str(tmp_path / "set"))).train.images
            means.append(float(torch.as_tensor(images[:4]).float().mean()))
        assert means == [30.0, 130.0]

    def test_a_train_split_is_required(self, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            load_data(replace(hf_set(tmp_path, "train"), test_split="train"))
        assert caught.value.where == "data.train_split"

    def test_a_data_set_without_splits_is_split(self, tmp_path: Path) -> None:
        settings = hf_set(tmp_path, "train")
        assert (
            load_data(replace(settings, path=f"{settings.path}/train")).digest == load_data(settings).digest
        )

    @pytest.mark.parametrize(
        ("change", "where"),
        [
            ({"image_column": "img"}, "data.image_column"),
            ({"label_column": "y"}, "data.label_column"),
            ({"test_split": "exam"}, "data.test_split"),
        ],
    )
    def test_unknown_columns_and_splits_are_named(
        self, tmp_path: Path, change: dict[str, str], where: str
    ) -> None:
        with pytest.raises(UserError) as caught:
            load_data(replace(hf_set(tmp_path, "train"), **change))
        assert caught.value.where == where

    def test_a_name_that_cannot_be_loaded_is_explained(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match="save_to_disk") as caught:
            load_data(DataSettings(name="hf", path="nobody/nothing"))
        assert caught.value.where == "data.path"
        assert "nobody/nothing" in caught.value.found


def written(folder: Path, labels: list[Any], **columns: Any) -> DataSettings:
    """Write a CSV file with one picture a label."""
    given = pictures(len(labels), ["x"])
    for number, (_, image) in enumerate(given):
        (folder / f"{number}.png").write_bytes(encoded(image))
    frame = pd.DataFrame({"image": [f"{n}.png" for n in range(len(labels))], "label": labels, **columns})
    frame.to_csv(folder / "t.csv", index=False)
    return table_of(folder / "t.csv")


class TestTables:
    def test_numbers_are_ordered_as_numbers_and_keep_missing_ones_apart(self, tmp_path: Path) -> None:
        settings = written(tmp_path, [10, 9, 2] * 5)
        assert load_data(settings).classes == ("2", "9", "10")

    def test_numbers_beyond_the_exact_floats_stay_apart(self, tmp_path: Path) -> None:
        large = 10**17
        settings = written(tmp_path, [large + 1, large + 2] * 5)
        assert load_data(settings).classes == (str(large + 1), str(large + 2))

    @pytest.mark.parametrize(
        ("labels", "classes"),
        [
            (["007", "7", "08", "1e1", "10"], ("007", "08", "10", "1e1", "7")),
            (["01", "02"], ("01", "02")),
            (["2.0", "10"], ("2", "10")),
        ],
    )
    def test_codes_stay_as_they_are_written(
        self, tmp_path: Path, labels: list[Any], classes: tuple[str, ...]
    ) -> None:
        assert load_data(written(tmp_path, labels * 12)).classes == classes

    def test_classes_may_be_named_like_missing_values(self, tmp_path: Path) -> None:
        assert load_data(written(tmp_path, ["NA", "null", "nan"] * 5)).classes == ("NA", "nan", "null")

    def test_empty_fields_are_broken_images(self, tmp_path: Path) -> None:
        with pytest.raises(UserError) as caught:
            load_data(written(tmp_path, [1, None, 2] * 5))
        assert "5 of 15 images cannot be read" in caught.value.found
        assert "t.csv, row 2: no label" in caught.value.found

    def test_rows_may_end_in_a_separator(self, tmp_path: Path) -> None:
        path = Path(written(tmp_path, ["a", "b"] * 5).path or "")
        head, *rows = path.read_text().splitlines()
        path.write_text("\n".join([head, *(f"{row}," for row in rows)]))
        assert load_data(table_of(path)).classes == ("a", "b")

    def test_empty_texts_in_parquet_are_no_labels(self, tmp_path: Path) -> None:
        frame = pd.read_csv(written(tmp_path, ["a", "b", "c"] * 5).path or "")
        frame.replace({"label": {"c": ""}}).set_index("label").to_parquet(tmp_path / "t.parquet")
        with pytest.raises(UserError, match="5 of 15 images cannot be read"):
            load_data(table_of(tmp_path / "t.parquet"))

    def test_other_columns_may_be_named(self, tmp_path: Path) -> None:
        settings = written(tmp_path, ["a", "b"] * 5)
        frame = pd.read_csv(settings.path or "").rename(columns={"image": "file", "label": "kind"})
        frame.to_csv(tmp_path / "named.csv", index=False)
        named = DataSettings(
            name="table", path=str(tmp_path / "named.csv"), image_column="file", label_column="kind"
        )
        assert load_data(named).digest == load_data(settings).digest
        with pytest.raises(UserError) as caught:
            load_data(table_of(tmp_path / "named.csv"))
        assert caught.value.where == "data.image_column"
        assert "file, kind" in caught.value.allowed

    @pytest.mark.parametrize(("labels", "odd"), [([2.0, 1.5], r"1\.5"), ([1.0, float("inf")], "inf")])
    def test_numbers_that_are_not_whole_are_refused_as_labels(
        self, tmp_path: Path, labels: list[float], odd: str
    ) -> None:
        pd.DataFrame({"image": [b"x", b"y"], "label": labels}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(UserError, match=f"column label: found {odd}"):
            load_data(table_of(tmp_path / "t.parquet"))

    def test_unknown_splits_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"row 4, column split: found 'holdout'"):
            load_data(written(tmp_path, ["a", "b"] * 2, split=["train"] * 3 + ["holdout"]))

    def test_a_table_without_training_rows_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no images with labels to train on"):
            load_data(written(tmp_path, ["a", "b"] * 2, split="test"))

    @pytest.mark.parametrize("suffix", [".csv", ".parquet"])
    def test_a_file_that_is_no_table_is_named(self, tmp_path: Path, suffix: str) -> None:
        file = tmp_path / f"t{suffix}"
        file.write_bytes(b"\xff\xfe\x00rubbish")
        with pytest.raises(UserError, match="no readable table") as caught:
            load_data(table_of(file))
        assert caught.value.where == str(file)

    def test_a_missing_table_and_a_table_given_as_a_folder_are_explained(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="nothing there"):
            load_data(table_of(tmp_path / "gone.csv"))
        (tmp_path / "t.txt").write_text("image,label\n")
        with pytest.raises(UserError, match="not a table"):
            load_data(table_of(tmp_path / "t.txt"))
        settings = written(tmp_path, ["a", "b"])
        with pytest.raises(UserError, match=r"data\.name=table"):
            load_data(DataSettings(name="imagefolder", path=settings.path))

    def test_a_changed_table_of_bytes_is_read_anew(self, tmp_path: Path) -> None:
        one, other = pictures(5, ("a", "b"), 0), pictures(5, ("a", "b"), 1)
        for given in (one, other):
            suite = TestParquet()
            data = load_data(suite.write(tmp_path, {"train": given}))
            assert set.union(*(found(data, part) for part in data.splits())) == expected(given)
