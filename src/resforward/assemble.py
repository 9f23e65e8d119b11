"""A layout's steps, handed to the core: shapes become tensors, and names become packed weights and affines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import _core
from .families import GROUPS
from .fold import ScaleShift
from .network import Network
from .plan import Form, Layout, Step

Norm = Callable[[str], ScaleShift]
Packed = _core.PackedConv | _core.PackedWinograd


def make_plan(
    network: Network,
    layout: Layout,
    convs: Mapping[Form, Packed],
    norm: Norm,
    group: Norm,
    isa: str,
    threads: int,
) -> _core.Plan:
    """Hand a layout's steps to the core.

    Args:
        network: the table that the layout was made from.
        layout: of `lay_out`.
        convs: packed convolutions by name and form; see `Step.form`.
        norm: a batch norm's scale and shift by its scope. group: a group norm's gamma and beta, likewise.
        isa, threads: what runs it.
    """
    plan = _core.Plan(isa, threads, layout.arena_floats)
    for step in layout.steps:
        if step.kind == "store":
            plan.store(step.inputs[0].tensor(), step.output, step.softmax)
            continue
        if step.kind == "load_rows":
            rows = step.writes[0]
            assert step.conv is not None
            affine = norm(step.norm) if step.norm else (None, None)
            plan.load_rows(rows.n, rows.h, rows.w, rows.c, step.conv.kernel // 2, rows.offset, *affine)
            continue
        if step.kind == "mean":
            plan.mean(step.inputs[0].tensor(), step.writes[0].tensor())
            continue
        if step.kind == "group_norm":
            x, affine = step.inputs[0], group(step.norm)
            plan.group_norm(x.tensor(), GROUPS, affine.scale, affine.shift, network.epsilon, step.writes[0].tensor())
            continue
        for link in step.chain:
            outputs, follows = _outputs(link, norm), link is not step
            if link.kind == "load":
                written = link.writes[0]
                plan.load(written.n, written.h, written.w, written.c, outputs)
            elif link.kind == "avg_pool":
                plan.avg_pool(link.inputs[0].tensor(), link.stride, link.stride, outputs)
            elif link.kind == "max_pool":
                _add_pool(plan, network, link, outputs, follows=follows)
            else:
                _add_conv(plan, link, convs[link.form], outputs, follows=follows)
    return plan


def _add_pool(plan: _core.Plan, network: Network, step: Step, outputs: _core.Outputs, *, follows: bool) -> None:
    assert network.stem is not None
    assert network.stem.pool is not None
    pool, x = network.stem.pool, step.inputs[0]
    plan.max_pool(x.tensor(), pool.kernel, pool.stride, *step.pads, pool.fill == "zero", outputs, follows)


def _add_conv(plan: _core.Plan, step: Step, packed: Packed, outputs: _core.Outputs, *, follows: bool) -> None:
    row, x = step.conv, step.inputs[0]
    assert row is not None
    shortcut = step.shortcut.tensor() if step.shortcut else None
    if isinstance(packed, _core.PackedWinograd):
        plan.winograd(packed, x.tensor(), outputs, shortcut, step.shortcut_stride)
    elif step.kind == "conv_rows":
        plan.conv_rows(packed, x.offset, x.n, x.h, x.w, row.stride, row.kernel // 2, outputs)
    else:
        plan.conv(packed, x.tensor(), outputs, row.stride, row.rate, shortcut, step.shortcut_stride, follows)


def _outputs(step: Step, norm: Norm) -> _core.Outputs:
    linear, out, preact = (value.tensor() if value else None for value in (step.linear, step.out, step.preact))
    if preact is None:
        return _core.Outputs(linear=linear, out=out, relu=step.relu)
    scale, shift = norm(step.norm)
    return _core.Outputs(linear=linear, out=out, preact=preact, scale=scale, shift=shift, relu=step.relu)
