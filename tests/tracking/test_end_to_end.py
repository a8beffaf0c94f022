"""A real search against a real server that dies for twenty seconds, then looked at in a real browser."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
from urllib.parse import quote

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

import tkd_search
from tests.tracking.stores import Server, assert_exactly_once
from tkd_search.cli.export import data_of
from tkd_search.data import plain_batches
from tkd_search.distill.training.evaluation import evaluate
from tkd_search.results.summary import read_record, read_summary
from tkd_search.tracking.mlflow.writer_status import read_acknowledged
from tkd_search.tracking.search_log import read_search_log

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(1800)]
DOWN_SECONDS = 20
SMALL = ("--set", "search.trials=8", "--set", "training.epochs=6", "--set", "big_model.epochs=6")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(server, run's folder) of a finished search in whose middle the server was killed."""
    place = tmp_path_factory.mktemp("search")
    (place / "server").mkdir()
    server = Server(place / "server").start()
    command = [sys.executable, "-m", "tkd_search.run", "--name", "seen", *SMALL]
    command += ["--set", f"tracking.uri={server.uri}", "--output", str(place / "runs")]
    folder = place / "runs" / "seen"
    with (place / "log").open("wb") as log:
        search = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=place, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            wait(
                lambda: sum(t.epochs_trained for t in read_search_log(folder).trials.values()) >= 4,
                search,
                place,
            )
            wait(lambda: read_acknowledged(folder / "mlflow", server.uri).sequence >= 0, search, place)
            server.kill()
            time.sleep(DOWN_SECONDS)
            server.start()
            assert search.wait(1200) == 0, (place / "log").read_text()[-3000:]
        finally:
            search.kill()
    # A loaded machine's server may come back after the search's end: then this delivers the rest.
    subprocess.run([sys.executable, "-m", "tkd_search", "report", str(folder)], cwd=place, check=True)
    yield server, folder
    server.kill()


def wait(condition, process, place, seconds=600):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (place / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_every_trial_point_and_artifact_is_there_once(found):
    server, folder = found
    record = read_record(folder)
    assert record.status == "complete"
    assert len(record.trials) == 8
    client = MlflowClient(server.uri, server.uri)
    assert_exactly_once(server.uri, record, full=False)
    there = read_summary(folder)["mlflow"]
    runs = client.search_runs(
        [there["experiment_id"]],
        f"tags.pareto = 'true' and tags.`mlflow.parentRunId` = '{there['parent_run_id']}'",
    )
    with (folder / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = {row["trial_id"] for row in rows if row["kind"] == "student"}
    references = [row["student"].split()[-1] for row in rows if row["kind"] == "reference"]
    assert sorted(references) == ["fp16", "fp32", "int8"]
    assert {run.data.tags["tkd.trial_id"] for run in runs} == expected


def test_the_figures_of_every_member_are_those_of_its_files(found):
    from tkd_search.export import export_student
    from tkd_search.export.onnx_file import OnnxNetwork

    _, folder = found
    data = data_of(folder)
    for member in read_record(folder).front:
        place = folder / member.path
        parts = {"val": (data.validation, member.val_accuracy), "test": (data.test, member.test_accuracy)}
        for split, accuracy in parts.values():

            def batches(split=split):
                return plain_batches(split, mean=data.mean, std=data.std)

            assert evaluate(OnnxNetwork(place / "model.onnx"), batches()) == pytest.approx(accuracy, abs=1e-9)
            model, _ = tkd_search.load(place)
            assert evaluate(model, batches()) == pytest.approx(accuracy, abs=0.02)
        assert export_student(place, data).test.accuracy == pytest.approx(member.test_accuracy, abs=1e-9)
        assert (place / "model.safetensors").stat().st_size == member.bytes


def test_registered_versions_predict_as_in_the_search(found, monkeypatch):
    server, folder = found
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    test = data_of(folder).test
    images, labels = test.images.permute(0, 2, 3, 1).numpy(), test.labels.numpy()
    for member in read_record(folder).front:
        model = mlflow.pyfunc.load_model(f"models:/seen-{member.trial_id}/1")
        right = (model.predict(images).argmax(1) == labels).mean()
        assert right == pytest.approx(member.test_accuracy, abs=0.02)  # the figure is that of the ONNX file


@pytest.fixture(scope="module")
def browser():
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--no-first-run", "--window-size=1400,1000"),
    ):
        options.add_argument(argument)
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def until(browser, script, seconds=60):
    """Run JavaScript until it returns something true."""
    deadline = time.monotonic() + seconds
    while not (result := browser.execute_script(f"return {script}")):
        if time.monotonic() > deadline:
            pytest.fail(f"{script} stays false on {browser.current_url}")
        time.sleep(0.2)
    return result


def show(browser, server, path):
    browser.get(f"{server.uri}/#{path}{'&' if '?' in path else '?'}workflowType=machine_learning")
    browser.refresh()


UNFOLD = """
const name = [...document.querySelectorAll('[role=row] a')].find(a => a.innerText.trim() == 'seen');
const place = name.getBoundingClientRect();
const sign = document.elementFromPoint(place.left - 32, place.top + place.height / 2);
sign.dispatchEvent(new MouseEvent('click', {bubbles: true}));
"""


def says(text):
    return f"document.body.innerText.includes({text!r})"


def test_the_browser_shows_experiments_parent_children_and_models(found, browser):
    server, folder = found
    summary = read_summary(folder)
    there = summary["mlflow"]
    runs = f"/experiments/{there['experiment_id']}/runs"
    show(browser, server, "/experiments")
    until(browser, says("tkd_search/digits"))
    show(browser, server, f"{runs}/{there['parent_run_id']}")
    for words in ("hypervolume", "on the front", "Child runs", summary["big_model"]["name"]):
        until(browser, says(words))
    picture = "[...document.images].some(i => i.src.includes('preview.png') && i.naturalWidth > 600)"
    until(browser, picture)
    show(browser, server, f"{runs}?searchFilter={quote(chr(39).join(('tags.pareto = ', 'true', '')))}")
    until(browser, says(f"{len(summary['front']) + 1} matching runs"))  # the parent holds its children
    browser.execute_script(UNFOLD)
    members = {member["trial_id"] for member in summary["front"]}
    for trial_id in members:
        until(browser, says(f"{trial_id} "))
    with (folder / "pareto.csv").open() as file:
        assert {row["trial_id"] for row in csv.DictReader(file) if row["kind"] == "student"} == members
    assert set(re.findall(r"\bt\d{4}\b", browser.execute_script("return document.body.innerText"))) == members
    show(browser, server, "/models")
    for member in summary["front"]:
        until(browser, says(f"seen-{member['trial_id']}"))


def test_the_browser_renders_the_front_as_an_artifact(found, browser):
    server, folder = found
    there = read_summary(folder)["mlflow"]
    page = f"/experiments/{there['experiment_id']}/runs/{there['parent_run_id']}/artifacts"
    show(browser, server, f"{page}/pareto.png")
    until(browser, "[...document.images].some(i => i.naturalWidth == 1500)")
    show(browser, server, f"{page}/pareto.html")
    until(browser, "document.querySelector('iframe.mlflow-html-iframe')")
    browser.switch_to.frame(browser.find_element("css selector", "iframe.mlflow-html-iframe"))
    until(browser, "document.querySelectorAll('#front .scatterlayer .point').length")
    browser.switch_to.default_content()


def test_the_page_works_from_disk_without_network_and_leads_to_the_trial(found, browser):
    server, folder = found
    record = read_record(folder)
    browser.get((folder / "pareto.html").as_uri())
    drawn = until(browser, "document.querySelectorAll('#front .scatterlayer .point').length")
    assert drawn == len(record.trials) + 1  # and the big model
    assert not browser.execute_script("return performance.getEntriesByType('resource').length")
    sizes = browser.execute_script(
        "return Array.from(document.getElementById('front').data.find(t => t.name == 'front').x)"
    )
    np.testing.assert_array_equal(sorted(sizes), sorted(member.bytes for member in record.front))
    address = browser.execute_script(
        "const p = document.getElementById('front');"
        "const t = p.data.find(t => t.name == 'front'); let got = null;"
        "window.open = (address) => { got = address; };"
        "p.emit('plotly_click', {points: [{customdata: t.customdata[0]}]});"
        "return got;"
    )
    assert address.startswith(server.uri)
    browser.get(address)
    smallest = min(record.front, key=lambda member: member.bytes)
    until(browser, says(smallest.trial_id))
