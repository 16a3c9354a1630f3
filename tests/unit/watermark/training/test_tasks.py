"""Tasks are found by name, and a further one is one more file."""

import pytest

from medprov_watermark.training import tasks
from medprov_watermark.training.tasks.base import TaskError


@pytest.fixture
def fresh():
    tasks.names.cache_clear()
    yield
    tasks.names.cache_clear()


def test_tasks_say_their_own_name():
    assert tasks.names() == ("region", "watermark")
    assert [tasks.find(name).name for name in tasks.names()] == list(tasks.names())


def test_unknown_names_are_refused_without_importing_anything():
    for name in ("diagnosis", "base", "", "../os", "os"):
        with pytest.raises(TaskError, match="choose one of region, watermark"):
            tasks.find(name)


def test_a_third_task_is_one_more_file(tmp_path, monkeypatch, fresh):
    (tmp_path / "third.py").write_text("TASK = 'the third'\n")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    assert tasks.names() == ("region", "third", "watermark")
    assert tasks.find("third") == "the third"
