"""Python's pool of two, warm: runs the job named by each line of its input and answers with the seconds it took."""

import math
import multiprocessing
import sys
import time

CALLS = 300


def add_one(x):
    return x + 1


def is_prime(n):
    if n != 2 and n % 2 == 0:
        return -1
    else:
        for i in range(3, int(math.sqrt(n) + 1)):
            if n % i == 0:
                return -1
    return n


def apply(pool):
    for x in range(CALLS):
        pool.apply(add_one, (x,))


def add(pool):
    pool.map(add_one, range(1_000_000))


def primes(pool):
    found = pool.map(is_prime, range(2, 1_000_000))
    assert sum(n > 0 for n in found) == 78498


def idle(pool):
    pass


if __name__ == "__main__":
    # Functions of a script given on the command line are known to workers only if these are forked.
    with multiprocessing.get_context("fork").Pool(int(sys.argv[1])) as pool:
        pool.map(add_one, range(10_000))
        print("ready", multiprocessing.current_process().pid, *(child.pid for child in multiprocessing.active_children()), flush=True)
        for line in sys.stdin:
            start = time.perf_counter()
            globals()[line.strip()](pool)
            print(time.perf_counter() - start, flush=True)
