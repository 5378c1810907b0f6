"""The actor between trials and driver, without Ray: nobody waits for what will not be answered."""

from __future__ import annotations

import asyncio

from orchestrator.mailbox import Answer, Mailbox


def test_an_attempt_that_is_over_waits_no_longer_and_others_go_on_waiting() -> None:
    async def scene() -> tuple[str, str]:
        box = Mailbox()
        dead, live = (asyncio.create_task(box.wait(key, 0)) for key in ("dead", "live"))
        await asyncio.sleep(0)
        await box.answer([], ["dead"])
        why = await asyncio.wait_for(dead, 10)
        assert not live.done()
        await box.answer([Answer("live", 0)], [])
        return why, await asyncio.wait_for(live, 10)

    assert asyncio.run(scene()) == ("the attempt is over", "")
