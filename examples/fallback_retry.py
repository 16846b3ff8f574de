"""A service is down and no request is lost: an API takes jobs in, a worker does them when it is back.

    python examples/fallback_retry.py

Three parts that would be three programs: an HTTP service that is down at first; an API that answers 202 as
soon as the job is on the broker's disk; a worker with prefetch 1 that tries again, after a longer wait each
time, until the service answers, and then acks. Every accepted job must be done exactly once: exits with 1 if
not.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import ClientError, ClientSession, ClientTimeout, web

import leveret

QUEUE = "example.jobs"
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Listener:
    """An HTTP server with one path, on a port of its own that it keeps over restarts."""

    def __init__(self, path: str, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post(self._path, self._handler)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._path}"


class Service:
    """What does the work, when it is up; remembers how often each job was done."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.listener = Listener("/work", self._work)
        self._worked = asyncio.Event()

    async def _work(self, request: web.Request) -> web.Response:
        self.done[await request.text()] += 1
        self._worked.set()
        return web.Response()

    async def until_done(self, total: int) -> None:
        """Wait until that many jobs were done."""
        while self.done.total() < total:
            self._worked.clear()
            await self._worked.wait()


class Api:
    """Takes jobs in: 202 means that the job is on the disk."""

    def __init__(self, channel: leveret.Channel) -> None:
        self.accepted: Counter[str] = Counter()
        self._channel = channel
        self.listener = Listener("/jobs", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        job = await request.text()
        try:
            await self._channel.publish(leveret.Message(job.encode(), message_id=job), QUEUE)
        except leveret.LeveretError as error:
            return web.Response(status=503, text=str(error))
        self.accepted[job] += 1
        return web.Response(status=202)


async def work(queue: leveret.Queue, service_url: str) -> None:
    """The worker: one job at a time, until cancelled."""
    wait_s = FIRST_WAIT_S
    async with ClientSession(timeout=ClientTimeout(total=5)) as http:
        async for message in queue:
            try:
                async with http.post(service_url, data=message.body) as response:
                    response.raise_for_status()
            except (ClientError, TimeoutError) as error:
                print(f"{message.body.decode()}: {type(error).__name__}, next try in {wait_s:.2f} s")
                await asyncio.sleep(
                    wait_s
                )  # the job stays with this worker: unacked, so safe with the broker
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                await message.nack(requeue=True)
            else:
                await message.ack()
                wait_s = FIRST_WAIT_S


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="leveret://guest:guest@127.0.0.1:5672/")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--down-s", type=float, default=2.0, help="how long the service is down at first")
    options = parser.parse_args()

    async with leveret.connect(options.url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.declare_queue(QUEUE, durable=True)
        await queue.purge()
        service, api = Service(), Api(channel)
        # A port of its own first, so that the worker knows where the service will be.
        await service.listener.start()
        await service.listener.stop()
        await api.listener.start()
        worker = asyncio.create_task(work(queue, service.listener.url))

        async with ClientSession() as client:
            answers = [
                (await client.post(api.listener.url, data=f"job-{number}")).status
                for number in range(options.jobs)
            ]
        print(f"the service is down; the API answered {dict(Counter(answers))}")
        await asyncio.sleep(options.down_s)
        print("the service is back")
        await service.listener.start()
        finished = asyncio.create_task(service.until_done(api.accepted.total()))
        await asyncio.wait((finished, worker), return_when=asyncio.FIRST_COMPLETED)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
        await queue.delete()
        await api.listener.stop()
        await service.listener.stop()

    print(f"accepted {api.accepted.total()}, done {service.done.total()}")
    if service.done != api.accepted:
        print(f"NOT DONE ONCE EACH: {(api.accepted - service.done) + (service.done - api.accepted)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
