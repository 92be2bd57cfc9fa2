import errno
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bcaudio import cli


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every heavy function behind the command line, replaced by one that notes its arguments."""
    noted: list[Any] = []
    for module, *names in (
        ("bcaudio.train", "train"),
        ("bcaudio.evaluate", "evaluate"),
        ("bcaudio.evaluation.report", "report", "results_table"),
        ("bcaudio.evaluation.ablation", "ablation"),
        ("bcaudio.inference.say", "say"),
        ("bcaudio.data.inspect", "ls", "verify", "stats", "show"),
        ("bcaudio.pretrained.importing", "import_pretrained"),
        ("bcaudio.pretrained.exporting", "export_model"),
        ("bcaudio.strategies.export", "export_checkpoint"),
    ):
        fake = ModuleType(module)
        for name in names:
            setattr(fake, name, lambda *args, name=name: noted.append((name, *args)))
        monkeypatch.setitem(sys.modules, module, fake)
        parent, _, child = module.rpartition(".")
        monkeypatch.setattr(sys.modules.get(parent) or __import__(parent, fromlist=["_"]), child, fake, raising=False)
    return noted


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("train r.yaml a.b=1 out=x", ("train", Path("r.yaml"), ["a.b=1", "out=x"])),
        ("evaluate r.yaml", ("evaluate", Path("r.yaml"), [], None)),
        ("report r.yaml +a=1", ("report", Path("r.yaml"), ["+a=1"])),
        ("ablation r.yaml out=x", ("ablation", Path("r.yaml"), ["out=x"])),
        ("say --run runs/m --audio q.wav --out a.wav", ("say", Path("runs/m"), Path("q.wav"), Path("a.wav"))),
        ("import x --to d", ("import_pretrained", Path("x"), Path("d"), "auto")),
        ("import x --kind hift --to d", ("import_pretrained", Path("x"), Path("d"), "hift")),
        ("export runs/m --to d --format baichuan", ("export_model", Path("runs/m"), Path("d"), "baichuan")),
        (
            "export s/checkpoints/step=4.ckpt --to d --format bcaudio",
            ("export_checkpoint", Path("s/checkpoints/step=4.ckpt"), Path("d")),
        ),
        ("shards ls a.tar b.tar", ("ls", ["a.tar", "b.tar"])),
        ("shards verify a.tar", ("verify", ["a.tar"])),
        ("shards stats a.tar", ("stats", ["a.tar"])),
        ("shards show a.tar b.tar key-1", ("show", ["a.tar", "b.tar"], "key-1")),
    ],
)
def test_every_command_reaches_its_function(calls: list[Any], line: str, call: tuple[Any, ...]) -> None:
    assert cli.main(line.split()) == 0
    assert calls == [call]


@pytest.mark.parametrize(
    "line",
    [
        *("", "trian r.yaml", "train", "train r.yaml seed", "train r.yaml --seed=1", "shards show a.tar", "say --run x"),
        *("import x", "import x --to d --kind y", "export x --to d", "export x --to d --format y", "export x --format baichuan"),
    ],
)
def test_wrong_usage_exits_with_2(calls: list[Any], line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2
    assert calls == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run p.yaml run_dir=r --jobs 2 a.b=1", (["run_dir=r", "a.b=1"], [], None, 2)),
        ("run p.yaml --only a b a.x=1", (["a.x=1"], ["a", "b"], None, None)),
        ("run --only a --only b --from c p.yaml", ([], ["a", "b"], "c", None)),
        ("run p.yaml --from c a.x=1", (["a.x=1"], [], "c", None)),
    ],
)
def test_run_takes_options_and_overrides_in_any_order(line: str, expected: tuple[Any, ...]) -> None:
    args = cli._parse(line.split())
    assert (args.overrides, args.only, args.start, args.jobs) == expected
    assert args.pipeline == Path("p.yaml")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("r.yaml: a\nr.yaml: b"), 2, "error: r.yaml: a\nerror: r.yaml: b\n"),
        (FileNotFoundError("x.wav: give a file"), 2, "error: x.wav: give a file\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.wav"), 2, "error: x.wav: no such file or folder\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/m/a.tar"),
            2,
            "error: no space left on runs/m/a.tar; free some and run the same command again\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_mistakes_of_the_user_are_one_line_each_without_traceback(
    calls: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.delenv("BCAUDIO_TRACEBACK", raising=False)
    monkeypatch.setattr(sys.modules["bcaudio.train"], "train", fail)
    assert cli.main(["train", "r.yaml"]) == code
    assert capsys.readouterr().err == text
    if isinstance(error, Exception):
        monkeypatch.setenv("BCAUDIO_TRACEBACK", "1")
        with pytest.raises(type(error)):
            cli.main(["train", "r.yaml"])


def test_the_exit_code_of_a_command_is_passed_on(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["bcaudio.evaluate"], "evaluate", lambda *_: 1)
    assert cli.main(["evaluate", "r.yaml"]) == 1


def test_our_own_mistakes_keep_their_traceback(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(sys.modules["bcaudio.train"], "train", fail)
    with pytest.raises(KeyError):
        cli.main(["train", "r.yaml"])


def test_show_prints_the_resolved_recipe_then_its_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text('a: ${b}\nb: 1\ntakes: {codes: "???"}\nmodel: {_target_: torch.nn.Identity}\n')
    assert cli.main(["show", str(path), "b=2"]) == 0
    assert capsys.readouterr().out == "a: 2\nb: 2\ntakes:\n  codes: ???\nmodel:\n  _target_: torch.nn.Identity\n"
    assert cli.main(["show", str(path), "model._target_=torch.nn.Identty"]) == 2
    assert "did you mean 'Identity'" in capsys.readouterr().err


def test_the_command_starts_without_the_heavy_libraries(repository: Path) -> None:
    code = "import sys; from bcaudio.cli import _parse; _parse(['train', 'x']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository)
    assert "bcaudio.cli" in done.stdout.split()
    assert not {"torch", "lightning", "omegaconf", "rich"} & set(done.stdout.split())


def test_python_m_bcaudio_is_the_command(repository: Path) -> None:
    command = [sys.executable, "-m", "bcaudio", "show", "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
    assert (done.returncode, done.stderr) == (2, "error: nowhere.yaml: no such file; give the path of a recipe\n")
