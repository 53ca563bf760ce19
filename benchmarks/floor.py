"""What the program is held against: plain ways to do the same requests, and to write the same series."""

import sys
from concurrent.futures import ThreadPoolExecutor

import requests

CONCURRENCY = 32
STATISTICS = ("getHitRate", "getIsp", "getRegion")
TODAY = "20240501"


def get(url: str, ca: str, channels: int) -> None:
    """Make the requests of a poll by `session.get` in a pool of threads, and look at no answer."""
    session = requests.Session()
    session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=CONCURRENCY))

    def ask(question: tuple[str, str]) -> None:
        method, channel = question
        if method == "http_code":
            params = {"api_user": "demo", "api_key": "believe-nothing", "start_time": TODAY, "end_time": TODAY}
            place, params["channel_id"] = "/rest-api/public/statistics/http_code", channel
        else:
            params = {"userName": "demo", "apiPasswd": "believe-nothing", "channelIds": channel}
            params |= {"startTime": f"{TODAY}1200", "endTime": f"{TODAY}1205"}
            place = f"/api/public/statistics/{method}.do"
        params["timeZone"] = "GMT+8"
        session.get(url + place, params=params, verify=ca, timeout=10).raise_for_status()

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        questions = [(method, str(100000 + n)) for n in range(channels) for method in (*STATISTICS, "http_code")]
        for _ in pool.map(ask, questions):
            pass


if __name__ == "__main__":
    get(sys.argv[1], sys.argv[2], int(sys.argv[3]))
