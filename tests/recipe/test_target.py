import pytest
from torch import nn

from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.target import resolve_target


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("os.system", "not allowed"),
        ("builtins.eval", "not allowed"),
        ("torch.load", "not allowed"),
        ("torch.nn", "not allowed"),
        ("bcaudio", "not allowed"),
        ("bcaudiox.evil", "not allowed"),
        ("bcaudio.recipe.record.os.system", "not allowed"),
        ("bcaudio.recipe.schedule.run_pipeline", "not allowed"),
        ("bcaudio.cli.main", "not allowed"),
        ("bcaudio.checkpoint.os.system", "is a builtin_function"),
        ("bcaudio.checkpoint.os.popen", "comes from os,"),
        ("bcaudio.checkpoint.build", "comes from bcaudio.recipe.build"),
        ("bcaudio.checkpoint.json.load", "comes from json,"),
        ("bcaudio.checkpoint.torch.load", "comes from torch.serialization,"),
        ("torch.nn.Module.__init__", "public names"),
        ("torch.nn.Linear.__init__.__globals__", "public names"),
        ("bcaudio.__main__.main", "public names"),
        ("bcaudio.checkpoint._some", "public names"),
        ("bcaudio..checkpoint", "public names"),
        ("bcaudio.checkpoint.WEIGHTS", "is a str"),
        ("bcaudio.checkpoint", "is a module"),
        ("bcaudio.checkpoint.save_modell", "did you mean 'save_model'"),
        ("bcaudio.chekpoint.save_model", "did you mean 'checkpoint'"),
        (3, "dotted path"),
    ],
)
def test_what_a_stranger_might_try_is_refused(target: object, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        resolve_target(target)


def test_classes_and_functions_of_allowed_packages_are_found() -> None:
    assert resolve_target("torch.nn.Linear") is nn.Linear
    assert resolve_target("bcaudio.checkpoint.save_model").__name__ == "save_model"
    assert resolve_target("torch.optim.AdamW").__name__ == "AdamW"
