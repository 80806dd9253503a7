"""An update's way in: from an agent's submit, over its chunks, to the disk."""

from __future__ import annotations

import math

import msgspec
from rpds import HashTrieMap

from aggregator.cohort import MOST_REFUSALS, Standing
from aggregator.presence import Waiting
from aggregator.round_answers import accepted, assignment, is_current, of_another_run, reject
from aggregator.round_state import (
    Action,
    HistoryDiffers,
    KeepChunk,
    RoundState,
    Said,
    Send,
    Step,
    StoreUpdate,
    UpdateRefused,
    UpdateStored,
    Upload,
    Warn,
)
from fedprune.errors import ProtocolError
from fedprune.system.values import replace
from fedprune.wire.messages import Accepted, Chunk, Content, Need, Reason, Rejected, Submit
from fedprune.wire.silence import is_worth_saying
from fedprune.wire.transfer import CHUNK_SIZES, ENVELOPE_BYTES, LinkTraits, Receiving, content_of, need_of

MAX_UPLOADS_BYTES = 256 * 2**20
"""Updates on their way in, together: who submits beyond that is told to wait, and asks again."""

STALLED_UPLOAD_S = 120.0
"""Seconds without a chunk after which an update on its way in gives up its room, if others want it."""

ACKNOWLEDGE_S = 3.0
"""Seconds for which an acceptance waits for the next round's work, to be said with it."""

ANSWERED_IN_S = 1.0
"""Seconds in which an agent that was asked for chunks has sent some, if it can."""


def answer_outside_round(state: RoundState, said: Said, _now: float) -> Step:
    """Say what the book says of an update that is not to be taken now."""
    submit = _opened(said)[0]
    answer = _verdict(state, said.agent, submit)
    return replace(state, owed=state.owed.discard(said.agent)), (Send(said.agent, answer),)


def take_submit(state: RoundState, said: Said, now: float) -> Step:
    agent, (submit, blob) = said.agent, _opened(said)
    member = state.cohort.get(agent)
    if not is_current(state, submit) or member is None or member.standing is Standing.ACCEPTED:
        state, answer = answer_outside_round(state, said, now)
        # While its update was pending the agent took no assignment.
        owed = member is not None and member.has_work
        return state, (*answer, Send(agent, assignment(state, agent, now, inline=True))) if owed else answer
    if member.standing is Standing.STORING:
        return state, ()
    if member.standing is Standing.OUT:
        return state, (Send(agent, reject(submit, Reason.INVALID, f"it sits this round out: {member.why}")),)
    if state.refused.get(agent) == submit.content.digest:
        if not member.has_work:  # a message that came twice is no second try
            return answer_outside_round(state, said, now)
        return refuse_update(state, agent, submit, f"it is the update that was refused before: {member.why}")
    most_bytes = state.plan.most_bytes(agent)
    if submit.content.size > most_bytes:
        return refuse_update(state, agent, submit, f"over {most_bytes} bytes")
    if member.standing in (Standing.FAILED, Standing.FORGIVEN):  # it tried again, and can after all
        member = msgspec.structs.replace(member, standing=Standing.ASSIGNED, why="", rests=False)
    state = replace(state, cohort=state.cohort.put(agent, msgspec.structs.replace(member, answered=True)))
    if blob:
        return _store(_receive(drop_upload(state, agent), agent, submit, now)[0], agent, blob)
    return _admit(state, agent, submit, now)


def take_chunk(state: RoundState, said: Said, now: float) -> Step:
    agent, chunk = said.agent, said.message
    assert isinstance(chunk, Chunk)
    upload, member = state.uploads.get(agent), state.cohort.get(agent)
    if upload is None or member is None or not member.has_work:
        return state, ()
    receiving, need = upload.receiving.add(chunk, now)
    is_largest = receiving.link.is_proven and receiving.link.chunk_bytes == state.plan.chunk_bytes
    if is_largest and not state.is_proven:
        state = replace(state, is_proven=True)
    if not receiving.is_complete:
        state = replace(state, uploads=state.uploads.insert(agent, replace(upload, receiving=receiving)))
        kept = () if receiving is upload.receiving else (KeepChunk(receiving.content, chunk),)
        return state, kept if need is None else (*kept, Send(agent, need))
    try:
        blob = receiving.assemble()
    except ProtocolError as error:  # a chunk was not the agent's: all of them come again
        receiving, need = Receiving.begin(upload.submit.content, now, agent, receiving.link)
        state = replace(state, uploads=state.uploads.insert(agent, replace(upload, receiving=receiving)))
        return state, (Send(agent, need), Warn(f"the update of {agent}: {error}; asking for all of it again"))
    return _store(state, agent, blob)


def accept(state: RoundState, event: UpdateStored, now: float) -> RoundState:
    """The update counts; its agent waits for the next round, and for the word that it does. By now it knows how many
    examples it has: before its first training it checked in with the most that there can be."""
    agent, member, times = event.agent, state.cohort.members[event.agent], state.response_times
    if math.isfinite(member.assigned_at):  # else a process before this one assigned it
        times = times.with_response(agent, now - member.assigned_at)
    submit = state.uploads[agent].submit
    member = msgspec.structs.replace(member, standing=Standing.ACCEPTED, digest=submit.content.digest)
    examples = min(member.examples, submit.examples)
    return replace(
        drop_upload(state, agent),
        cohort=state.cohort.put(agent, member),
        presence=state.presence.at(now).heard(agent, Waiting(examples, state.round, knows_terms=True)),
        response_times=times,
        owed=state.owed.insert(agent, submit.content.digest),
        owed_round=state.round,
        acknowledge_at=now + ACKNOWLEDGE_S if state.acknowledge_at is None else state.acknowledge_at,
    )


def acknowledge(state: RoundState) -> Step:
    """Tell all who do not know yet that their update is accepted."""
    answers = tuple(Send(agent, accepted(state.owed_round, state.owed[agent])) for agent in sorted(state.owed))
    return replace(state, owed=HashTrieMap(), acknowledge_at=None), answers


def refuse(state: RoundState, event: UpdateRefused) -> Step:
    return refuse_update(state, event.agent, state.uploads[event.agent].submit, event.why)


def ask_for_shared(state: RoundState, event: HistoryDiffers) -> Step:
    """Have an agent send its update as it is without a history. It is nobody's fault, and the agent keeps its place."""
    agent, submit = event.agent, state.uploads[event.agent].submit
    member = msgspec.structs.replace(state.cohort.members[agent], standing=Standing.ASSIGNED)
    state = replace(drop_upload(state, agent), cohort=state.cohort.put(agent, member))
    return state, (Send(agent, reject(submit, Reason.OTHER_HISTORY, "send it as it is without")),)


def refuse_update(state: RoundState, agent: str, submit: Submit, why: str) -> Step:
    """Reject an update for good, and wait for its agent no longer. Refused twice, the agent sits the round out."""
    member = state.cohort.members[agent]
    refusals = member.refusals + 1
    standing = Standing.OUT if refusals >= MOST_REFUSALS else Standing.FAILED
    member = msgspec.structs.replace(member, standing=standing, refusals=refusals, why=why[:1000], rests=False)
    state = replace(
        drop_upload(state, agent),
        refused=state.refused.insert(agent, submit.content.digest),
        cohort=state.cohort.put(agent, member),
        presence=state.presence.without(agent),
    )
    actions: tuple[Action, ...] = (Send(agent, reject(submit, Reason.INVALID, why)),)
    if standing is Standing.OUT:
        actions += (Warn(f"{agent} sits round {state.round + 1} out: {refusals} updates refused, the last: {why}"),)
    return state, actions


def excuse_upload(state: RoundState, agent: str) -> RoundState:
    """The agent, or this gateway, has connected anew: chunks that did not come may have been lost with the connection,
    and not since the broker takes none so large."""
    upload = state.uploads.get(agent)
    if upload is None or not upload.receiving.unanswered:
        return state
    return replace(state, uploads=state.uploads.insert(agent, replace(upload, receiving=upload.receiving.excused())))


def drop_upload(state: RoundState, agent: str) -> RoundState:
    upload = state.uploads.get(agent)
    if upload is None:
        return state
    size = upload.submit.content.size
    return replace(state, uploads=state.uploads.remove(agent), uploads_bytes=state.uploads_bytes - size)


def _admit(state: RoundState, agent: str, submit: Submit, now: float) -> Step:
    """Receive the update, or say again what of it is missing, or that there is no room for it yet."""
    upload = state.uploads.get(agent)
    if upload is not None and upload.submit.content == submit.content:
        # Where the agent submits once more after it was asked for chunks, and a while to send them, they may not pass.
        is_heard = upload.receiving.unanswered > 0 and now - upload.receiving.heard_at >= ANSWERED_IN_S
        receiving, need = upload.receiving.ask_again(now, is_heard=is_heard)
        uploads = state.uploads.insert(agent, replace(upload, receiving=receiving))
        return replace(state, uploads=uploads), (Send(agent, need), *_trouble(agent, upload.receiving, receiving))
    state, member = drop_upload(state, agent), state.cohort.members[agent]
    if not _has_room(state, submit):
        state = _drop_stalled(state, now)
    if not _has_room(state, submit):
        state = replace(state, cohort=state.cohort.put(agent, msgspec.structs.replace(member, told_to_wait=True)))
        return state, (Send(agent, need_of(submit.content, (), CHUNK_SIZES[0])),)
    is_resumed = submit.content.digest in state.came
    state, missing = _receive(state, agent, submit, now)
    if missing is None:
        return _store(state, agent, state.uploads[agent].receiving.assemble())
    # With its first submit the agent sends the first window unasked; that is over if it was told to wait.
    return state, (Send(agent, missing),) if member.told_to_wait or is_resumed else ()


def _receive(state: RoundState, agent: str, submit: Submit, now: float) -> tuple[RoundState, Need | None]:
    """Begin to receive an update, with what came of it before; and what to ask for, if anything is missing."""
    content = submit.content
    # What passed of others' updates mostly passes of this one's: an agent may merely be too busy to send it.
    link, came = LinkTraits(state.plan.chunk_bytes, is_proven=state.is_proven), state.came.get(content.digest) or ()
    receiving, need = Receiving.resume(content, now, agent, link, came)
    state = replace(
        state,
        uploads=state.uploads.insert(agent, Upload(submit, receiving)),
        uploads_bytes=state.uploads_bytes + content.size,
        came=state.came.discard(content.digest),
    )
    return state, need


def _store(state: RoundState, agent: str, blob: bytes) -> Step:
    """The update is here: make it durable."""
    submit, member = state.uploads[agent].submit, state.cohort.members[agent]
    state = replace(state, cohort=state.cohort.put(agent, msgspec.structs.replace(member, standing=Standing.STORING)))
    is_part = agent in state.plan.sub_gateways
    weight = submit.examples if is_part else min(submit.examples, member.examples, state.cap)
    return state, (StoreUpdate(agent, submit, blob, weight),)


def _opened(said: Said) -> tuple[Submit, bytes]:
    """A submit that names its update, and the update if it brought that, else nothing."""
    submit = said.message
    assert isinstance(submit, Submit)
    if isinstance(submit.update, Content):
        return submit, b""
    return msgspec.structs.replace(submit, update=content_of(submit.update)), submit.update


def _trouble(agent: str, before: Receiving, after: Receiving) -> tuple[Action, ...]:
    """What people are to be told of an update of which nothing comes."""
    asked, now_asked = before.link.chunk_bytes, after.link.chunk_bytes
    if now_asked < asked:
        return (
            Warn(
                f"{agent} submits, but no chunk of {asked} bytes comes: the broker may take no messages so large; "
                f"asking for chunks of {now_asked}"
            ),
        )
    if not is_worth_saying(after.unanswered):
        return ()
    return (
        Warn(
            f"{agent} submitted {after.unanswered + 1} times, and nothing of its update comes: the broker must take "
            f"messages of {now_asked + ENVELOPE_BYTES} bytes, and let it publish chunks"
        ),
    )


def _has_room(state: RoundState, submit: Submit) -> bool:
    return not len(state.uploads) or state.uploads_bytes + submit.content.size <= MAX_UPLOADS_BYTES


def _drop_stalled(state: RoundState, now: float) -> RoundState:
    """Without the uploads whose agents are gone, or too slow for others to wait. They may begin anew."""
    for agent, upload in list(state.uploads.items()):
        is_storing = state.cohort.members[agent].standing is Standing.STORING
        if now - upload.receiving.heard_at >= STALLED_UPLOAD_S and not is_storing:
            state = drop_upload(state, agent)
    return state


def _verdict(state: RoundState, agent: str, submit: Submit) -> Accepted | Rejected:
    digest, member = submit.content.digest, state.cohort.get(agent)
    if submit.run != state.plan.run:
        return of_another_run(submit)
    taken = member.digest if member is not None and member.standing is Standing.ACCEPTED else None
    if digest in (taken, state.last_accepted.get(agent)):
        return accepted(submit.round, digest)
    if digest == state.refused.get(agent):
        return reject(submit, Reason.INVALID, "refused before")
    if is_current(state, submit) and taken is not None:
        return reject(submit, Reason.INVALID, "another update of this round was accepted")
    if submit.round > state.round:
        return reject(submit, Reason.INVALID, f"of round {submit.round}, not yet begun")
    late = "not in this round's cohort" if is_current(state, submit) else f"round {submit.round} is over"
    return reject(submit, Reason.LATE, late)
