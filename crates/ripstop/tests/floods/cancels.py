"""A gRPC server, and a client of it that gives up most of what it asks: `cancels.py SERVE PROXY`, both ports.

Nobody answers Slow in time, so that each of its calls meets its deadline or is cancelled; every call of Quick, on the same
channel all the while, must succeed."""

import asyncio
import multiprocessing
import random
import sys

import grpc

GIVEN_UP = 3000
IN_TIME = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


async def quick(request, context):
    return request


async def slow(request, context):
    await asyncio.sleep(5)  # Longer than any caller waits: each of these calls is cancelled on its way.
    return request


async def serve(port):
    server = grpc.aio.server()
    handlers = {
        "Quick": grpc.unary_unary_rpc_method_handler(quick),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("t.T", handlers),)
    )
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    await server.start()
    await server.wait_for_termination()


async def call(port):
    dice = random.Random(7)
    given_up, fine = 0, 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        quick, slow = channel.unary_unary("/t.T/Quick"), channel.unary_unary("/t.T/Slow")
        await quick(b"first", timeout=60)

        async def gives_up():
            nonlocal given_up
            while given_up < GIVEN_UP:
                given_up += 1
                limit = dice.choice([0.005, 0.02, 0.05])
                if given_up % 2:
                    try:
                        await slow(b"x", timeout=limit)
                    except grpc.aio.AioRpcError as error:
                        # The server knows the deadline too, and may be the first to meet it.
                        assert error.code() in IN_TIME, error
                else:
                    call = slow(b"x", timeout=60)
                    await asyncio.sleep(limit)
                    call.cancel()

        async def stays():
            nonlocal fine
            while given_up < GIVEN_UP or fine < 200:
                assert await quick(b"y", timeout=60) == b"y"
                fine += 1

        await asyncio.gather(*(gives_up() for _ in range(40)), *(stays() for _ in range(4)))
    print(f"given up {given_up}, served {fine}")


def server(port):
    asyncio.run(serve(port))


if __name__ == "__main__":
    child = multiprocessing.get_context("spawn").Process(
        target=server, args=[int(sys.argv[1])], daemon=True
    )
    child.start()
    address = f"127.0.0.1:{sys.argv[1]}"
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
    asyncio.run(call(int(sys.argv[2])))
