"""Two applications for processes that were forked: one calls itself, one has it done by a process of a pool."""
import multiprocessing
from urllib.request import urlopen

pool = None


def call(number, by):
    urlopen("http://leaf/?id=%s&by=%s" % (number, by)).read()


def answer(environ, start_response, by, run):
    number = environ["QUERY_STRING"].partition("id=")[2]
    if number:
        run(call, (number, by))
    start_response("200 OK", [("Content-Length", "0")])
    return []


def direct(environ, start_response):
    return answer(environ, start_response, "forked", lambda what, words: what(*words))


def pooled(environ, start_response):
    global pool
    pool = pool or multiprocessing.Pool(4)
    return answer(environ, start_response, "pool", pool.apply)
