"""How ``run --cluster`` ends: after the search, and after Ctrl-C."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cluster.conftest import cluster_file
from tkd_search import run
from tkd_search.cluster import launch

HEAD = SimpleNamespace(shell_command=lambda script: ["ssh"], tunnel_command=lambda forwards: ["ssh"])


@pytest.mark.parametrize(("copied", "code", "words"), [(True, 0, "copied to"), (False, 2, "was not copied")])
def test_results_that_were_not_copied_are_no_success(
    copied: bool, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = SimpleNamespace(get_job_info=lambda job_id: SimpleNamespace(status="SUCCEEDED"))
    head: Any = SimpleNamespace(fetch=lambda place, folder: copied)
    assert launch._finish(client, head, "tkd-x-1", "$HOME/runs", tmp_path / "x") == code
    assert words in capsys.readouterr().err


def test_the_command_that_was_given_attaches_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    fakes = {
        "read_cluster_file": lambda path: cluster_file(),
        "find_head": lambda file: HEAD,
        "use_token": lambda head: None,
        "Tunnel": lambda *arguments: nullcontext(),
        "open_client": lambda port: None,
        "_attach_or_submit": lambda *arguments: "tkd-mine-1",
        "_follow": interrupted,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(launch, name, fake)
    monkeypatch.setattr(launch.ClusterFile, "require_filled", lambda self: None)
    given = ["--cluster", "c.yaml", "--config", "cifar10", "--name", "mine", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["run.py", *given])
    monkeypatch.setattr(run, "__name__", "__main__")
    with pytest.raises(SystemExit) as ended:
        run.cli.main(given, standalone_mode=False)
    assert ended.value.code == launch.DETACHED_EXIT_CODE
    assert f"attach again:  python -m tkd_search.run {' '.join(given)}\n" in capsys.readouterr().err
