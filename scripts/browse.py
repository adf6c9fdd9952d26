"""Looks at a page with headless Chromium, as wide as a screen or a phone, light or dark, and says what it shows.

browse.py URL SECONDS NAME=WIDTH[,dark]... [--into DIR] [--expect WORDS]...

After so many seconds each view is kept as DIR/NAME.png, as long as the page is. Ends with 1 where the page does not
say the words, reports an error on its console, or does not fit its width. Python's standard library and Chromium only."""

import argparse
import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

OPTIONS = """--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update
--disable-sync --hide-scrollbars --remote-debugging-port=0""".split()


class Conversation:
    """A web socket, as far as Chromium's debugger needs one: frames of text, whole."""

    def __init__(self, url):
        host, port, path = re.fullmatch(r"ws://([^:/]+):(\d+)(/.*)", url).groups()
        self.socket = socket.create_connection((host, int(port)), 30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.stream = self.socket.makefile("rb")
        while self.stream.readline().strip():
            pass
        self.number = 0
        self.events = []

    def ask(self, method, **parameters):
        self.number += 1
        text = json.dumps({"id": self.number, "method": method, "params": parameters}).encode()
        length = len(text)
        if length < 126:
            head = bytes([0x81, 0x80 | length])
        elif length < 65536:
            head = bytes([0x81, 0xFE]) + length.to_bytes(2, "big")
        else:
            head = bytes([0x81, 0xFF]) + length.to_bytes(8, "big")
        # Masked, as a client's frames have to be; with zeros, which change nothing.
        self.socket.sendall(head + bytes(4) + text)
        while True:
            said = json.loads(self.frame())
            if said.get("id") == self.number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]
            self.events.append(said)

    def frame(self):
        whole = b""
        while True:
            first, second = self.stream.read(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(self.stream.read(2 if length == 126 else 8), "big")
            whole += self.stream.read(length)
            if first & 0x80:
                return whole


def look(page, url, seconds, width, dark):
    """Opens the page and waits; gives its text and what went wrong on it."""
    page.events.clear()
    page.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=2 if width < 600 else 1, mobile=width < 600)
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
    page.ask("Page.navigate", url=url)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.2)
        wide = page.ask("Runtime.evaluate", expression="document.documentElement.scrollWidth", returnByValue=True)
    text = page.ask("Runtime.evaluate", expression="document.body.innerText", returnByValue=True)["result"]["value"]
    wrong = [event["params"] for event in page.events if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    if wide["result"]["value"] > width:
        wrong.append(f"it is {wide['result']['value']} wide, not {width}")
    return text, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("seconds", type=float)
    parser.add_argument("view", nargs="+")
    parser.add_argument("--into", default=".")
    parser.add_argument("--expect", action="append", default=[])
    given = parser.parse_args()
    profile = tempfile.mkdtemp(prefix="holdfast-browse-")
    log = open(os.path.join(profile, "log"), "w+")
    browser = subprocess.Popen(["chromium", *OPTIONS, f"--user-data-dir={profile}", "about:blank"], stderr=log, stdout=log)
    failed = False
    try:
        where = os.path.join(profile, "DevToolsActivePort")
        end = time.monotonic() + 60
        while not (os.path.exists(where) and open(where).read().count("\n")):
            if browser.poll() is not None or time.monotonic() > end:
                log.seek(0)
                sys.exit(f"browse.py: chromium did not start:\n{log.read()}")
            time.sleep(0.1)
        port = open(where).read().split()[0]
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30))
        page = Conversation(next(entry for entry in pages if entry["type"] == "page")["webSocketDebuggerUrl"])
        for domain in ("Page", "Runtime", "Log"):
            page.ask(f"{domain}.enable")
        for view in given.view:
            name, width, *dark = re.split("[=,]", view)
            text, wrong = look(page, given.url, given.seconds, int(width), bool(dark))
            picture = page.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            with open(os.path.join(given.into, f"{name}.png"), "wb") as file:
                file.write(base64.b64decode(picture["data"]))
            missing = [words for words in given.expect if not re.search(words, text)]
            for what in [f"it does not say {words!r}" for words in missing] + wrong:
                failed = True
                print(f"{name}: {what}", file=sys.stderr)
            if missing:
                print(text, file=sys.stderr)
    finally:
        browser.terminate()
        browser.wait(30)
        log.close()
        shutil.rmtree(profile, ignore_errors=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
