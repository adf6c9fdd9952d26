"""Works at what comes into a queue of a running instance: jobs.py RUN_DIR FOLDER NAME [SECONDS]

Waits so many seconds for the next, then ends. A job is out of the queue when it is done: should this program die at one, the
next gets it.
"""

import sys

import holdfast


def main(run_dir: str, folder: str, name: str, seconds: float = 10) -> None:
    with holdfast.Session(run_dir) as session:
        jobs = session.queue(folder, name, capacity=100)
        print("waiting", flush=True)
        while True:
            with session.transaction(item_of=jobs, timeout=seconds):
                job = jobs.pop().decode()
                print(f"done: {job}", flush=True)
            if job == "stop":
                return


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3], *(float(seconds) for seconds in sys.argv[4:5]))
    except holdfast.Busy:
        pass
    except holdfast.HoldfastError as error:
        sys.exit(f"jobs.py: {error}")
