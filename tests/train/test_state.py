"""The state of a training on disk: whole or not there, the last two kept, written behind training's back."""

import pytest
import torch

from clipline.train.state import CheckpointManager, State, random_state, set_random_state


def state(value, **facts):
    return State({"weight": torch.full((3,), float(value)), "counter": torch.tensor(value)}, {"value": value, **facts})


def save(checkpoints, *values):
    for value in values:
        checkpoints.save(value, state(value), lambda: None)
    checkpoints.poll(wait=True)


def test_the_newest_of_two_comes_back(tmp_path):
    checkpoints = CheckpointManager(tmp_path / "states")
    assert checkpoints.newest() is None
    save(checkpoints, 8, 9, 10, 11)
    assert [path.name for path in sorted(checkpoints.folder.iterdir())] == [
        "state-000000000010.safetensors",
        "state-000000000011.safetensors",
    ]
    found = CheckpointManager(checkpoints.folder).newest()
    assert found.metadata == {"value": 11}
    assert torch.equal(found.tensors["weight"], torch.full((3,), 11.0))
    assert found.tensors["counter"].item() == 11


def test_facts_come_back_exactly(tmp_path):
    checkpoints, numbers = CheckpointManager(tmp_path), [0.1 + 0.2, 1e-310, float("inf"), 2**100, -0.0]
    checkpoints.save(1, state(1, numbers=numbers), lambda: None)
    checkpoints.poll(wait=True)
    assert checkpoints.newest().metadata["numbers"] == numbers


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" * len(b)])
def test_a_damaged_state_gives_way_to_the_one_before(tmp_path, capsys, damage):
    checkpoints = CheckpointManager(tmp_path)
    save(checkpoints, 1, 2)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(damage(newest.read_bytes()))
    assert checkpoints.newest().metadata["value"] == 1
    assert f"{newest}: damaged" in capsys.readouterr().err


def test_what_is_saved_is_what_stood_at_the_call(tmp_path):
    checkpoints, tensor = CheckpointManager(tmp_path), torch.zeros(1_000_000)
    checkpoints.save(1, State({"weight": tensor}, {}), lambda: None)
    tensor += 1
    checkpoints.poll(wait=True)
    assert not checkpoints.newest().tensors["weight"].any()


def test_called_back_once_durable_and_in_order(tmp_path):
    checkpoints, told = CheckpointManager(tmp_path), []
    for step in (1, 2):
        checkpoints.save(
            step, state(step), lambda step=step: told.append((step, checkpoints.newest().metadata["value"]))
        )
        assert (step, step) not in told
    checkpoints.poll(wait=True)
    checkpoints.poll()
    assert told == [(1, 1), (2, 2)]


def test_a_disk_that_refuses_is_an_error_of_the_next_settle(tmp_path):
    (tmp_path / "states").write_text("a file stands where the folder should be")
    checkpoints = CheckpointManager(tmp_path / "states")
    checkpoints.save(1, state(1), lambda: pytest.fail("not durable"))
    with pytest.raises(OSError, match="states"):
        checkpoints.poll(wait=True)


def test_cleared(tmp_path):
    checkpoints = CheckpointManager(tmp_path / "states")
    save(checkpoints, 1)
    checkpoints.clear()
    assert not checkpoints.folder.exists()
    assert checkpoints.newest() is None


def test_random_numbers_go_on():
    torch.manual_seed(3)
    torch.rand(7)
    kept = random_state()
    expected = torch.rand(5)
    torch.rand(100)
    set_random_state(kept)
    assert torch.equal(torch.rand(5), expected)
