"""What every method keeps to. A new file in raylens/methods is covered the moment it exists."""

import inspect

import pytest
import safetensors.torch
import torch

from raylens import augment, find
from raylens.config import build
from raylens.methods.base import Method
from raylens.models import Model, batch_norms

every_method = pytest.mark.parametrize("name", find.names("methods"))


def backward(losses):
    if losses.total.requires_grad:  # a method may gather statistics and train nothing
        losses.total.backward()


@every_method
def test_the_file_names_its_paper_or_says_what_it_is(name):
    cls = find.method(name)
    assert inspect.getmodule(cls).__doc__
    assert cls.__doc__
    assert cls.Config().name == name


@every_method
def test_streams_are_what_losses_takes_and_views_are_pipelines(name):
    cls = find.method(name)
    assert [*inspect.signature(cls.losses).parameters] == ["self", *cls.streams, "progress"]
    assert cls.views
    assert set(cls.views.values()) <= {*augment.names()}
    assert set(cls.tasks) <= {*find.names("tasks")}
    assert cls.start is None or cls.start in find.names("methods")


@every_method
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_losses_are_finite_scalars_and_add_up(name, progress, tiny):
    method = tiny.method(name)
    losses = method(tiny.batch(method), progress=progress)
    assert losses.terms
    for term in (*losses.terms.values(), *losses.monitors.values()):
        assert term.shape == ()
        assert term.isfinite()
    assert not any(monitor.requires_grad for monitor in losses.monitors.values())
    torch.testing.assert_close(losses.total, sum(losses.terms.values()))


@every_method
def test_gradients_reach_exactly_the_trainable_parameters(name, tiny):
    method = tiny.method(name)
    backward(method(tiny.batch(method), progress=0.5))
    for path, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, path
        assert parameter.grad is None or parameter.grad.isfinite().all(), path


@every_method
def test_groups_cover_exactly_the_trainable_parameters_and_each_once(name, tiny):
    method = tiny.method(name)
    groups = method.groups()
    grouped = [parameter for group in groups for parameter in group["params"]]
    trainable = {id(parameter) for parameter in method.parameters() if parameter.requires_grad}
    assert len(grouped) == len(trainable)
    assert {id(parameter) for parameter in grouped} == trainable
    assert len({group["name"] for group in groups}) == len(groups)
    assert {path for group in groups for path in group} <= {"name", "params", "lr", "scale"}


@every_method
def test_the_same_seed_gives_the_same_losses(name, tiny):
    def total(seed):
        method = tiny.method(name, seed=seed)
        torch.manual_seed(0)
        return method(tiny.batch(method), progress=0.5).total

    assert torch.equal(total(3), total(3))
    assert not torch.equal(total(3), total(4))


@every_method
def test_state_is_saved_and_loaded_whole(name, tiny):
    method, other = tiny.method(name, seed=1), tiny.method(name, seed=2)
    optimizer = torch.optim.SGD(method.groups(), lr=0.1)
    backward(method(tiny.batch(method), progress=0.5))
    optimizer.step()
    method.after_step(0.5)
    state = {key: value.contiguous().clone() for key, value in method.state_dict().items()}
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)))
    totals = []
    for one in (method, other):
        torch.manual_seed(0)
        totals.append(one(tiny.batch(one, seed=1), progress=0.7).total)
    assert torch.equal(*totals)


@every_method
def test_what_is_left_behind_is_a_model_of_logits(name, tiny):
    method = tiny.method(name)
    assert isinstance(method.result, Model)
    method.eval()
    said = method.result(torch.rand(3, 1, 32, 32))
    assert said.shape == (3, method.result.encoder.dim if "pretraining" in method.tasks else 2)
    assert not any(module.training for module in method.modules())


@every_method
def test_a_target_label_is_never_looked_at(name, tiny):
    method = tiny.method(name)
    if "target" not in method.streams:
        pytest.skip("has no target")
    batch = tiny.batch(method)
    assert batch["target"].labels is None
    assert method(batch, progress=0.5).total.isfinite()


@every_method
def test_it_learns_any_number_of_classes(name, tiny):
    from raylens.checkpoint import build_model

    facts = tiny.facts(("axion", "cdm", "no"))
    cls = find.method(name)
    run = tiny.run(name, method={"target_prior": None} if hasattr(cls.Config(), "target_prior") else {})
    task = find.task(run.task.name)(facts.classes)
    method = cls(run.method, build_model(run, facts), task)
    assert method(tiny.batch(method), progress=0.5).total.isfinite()
    if "classification" in method.tasks:
        assert method.eval().result(torch.rand(3, 1, 32, 32)).shape == (3, 3)


@every_method
def test_nothing_is_wrong_with_a_healthy_report(name, tiny):
    method = tiny.method(name)
    losses = method(tiny.batch(method), progress=0.5)
    metrics = {
        "monitor/weight_change": 0.1,
        **{f"monitor/lr_{group['name']}": 1e-3 for group in method.groups()},
    }
    metrics |= {f"loss/{term}": value.item() + 0.1 for term, value in losses.terms.items()}
    assert method.symptoms(metrics) == []


@every_method
def test_a_rate_of_0_and_weights_that_stand_still_are_said(name, tiny):
    method = tiny.method(name)
    group = method.groups()[0]["name"]
    found = method.symptoms({"monitor/weight_change": 0.0, f"monitor/lr_{group}": 0.0, "warnings": ""})
    assert found == ["the weights of the result do not move", f"the learning rate of the {group} is 0"]


@every_method
def test_what_it_suggests_and_searches_are_settings_that_there_are(name):
    run = build({"method": name})
    cls = find.method(name)
    run.replace(**cls.suggests)
    for path, span in cls.space.items():
        run.replace(**{path: getattr(span, "low", None) or span.values[0]})


def test_an_unfinished_method_says_what_it_misses():
    class Unfinished(Method):
        streams = ("source",)

    with pytest.raises(NotImplementedError, match="Unfinished must define losses"):
        Unfinished()({"source": None}, 0.0)
    with pytest.raises(NotImplementedError, match="Unfinished must define result"):
        _ = Unfinished().result


@pytest.mark.parametrize(
    ("name", "views"), [("cdan", "view"), ("wdgrl", "view"), ("mcc", "view"), ("adamatch", "both")]
)
def test_running_statistics_of_batch_norm_are_the_targets(tiny, name, views):
    """The source leaves them alone; an average has those of what it is the average of."""
    method, twin = (tiny.method(name).train() for _ in range(2))
    batch = tiny.batch(method)
    method(batch, 0.5)
    method.after_step(0.5)
    target = batch["target"].views
    with torch.no_grad():
        twin.model(target["view"] if views == "view" else torch.cat([target["weak"], target["strong"]]))
    layers = [*batch_norms(twin.model)]
    assert layers
    for ours, theirs in zip(batch_norms(method.result), layers, strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
