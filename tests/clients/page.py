"""The chat page in a real headless Chromium, on a desk, on a phone and in the dark, over a scripted model.

    python page.py BASE_URL [FOLDER]

With a folder it also takes the pictures for docs/chat.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

URL = sys.argv[1]
PICTURES = Path(sys.argv[2]) if len(sys.argv) > 2 else None
TOOL = """[{"type": "function", "function": {"name": "get_weather", "description": "The weather in a city.",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]"""
# Nothing here has to be quick: a machine with much to do takes long for a frame.
expect.set_options(timeout=60_000)
SCREENS = {"desktop": {"viewport": {"width": 1100, "height": 760}},
           "phone": {"viewport": {"width": 390, "height": 780}, "is_mobile": True, "has_touch": True},
           "dark": {"viewport": {"width": 1100, "height": 760}, "color_scheme": "dark"}}


class Chat:
    def __init__(self, browser, name):
        # The page lets no script but its own run; those of the test are not part of it.
        self.name, self.context = name, browser.new_context(bypass_csp=False, **SCREENS[name])
        self.page, self.problems, self.requests = self.context.new_page(), [], []
        self.page.set_default_timeout(120_000)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(URL)
        expect(self.page.locator("#model")).to_have_text("gpt-oss-20b")

    def say(self, text, wait=True):
        self.page.fill("#text", text)
        self.page.click("#send")
        if wait:
            self.done()

    def done(self):
        expect(self.page.locator("#send")).to_have_text("Send")

    def copied(self, start):
        # The page writes to the clipboard after the click.
        self.page.wait_for_function("start => navigator.clipboard.readText().then(text => text.startsWith(start))", arg=start)

    def tools(self, text):
        self.page.click("#open")
        self.page.fill("#tools", text)
        self.page.click("#settings button.send")

    def picture(self, state):
        # Nothing may stand out of its column, on any screen.
        out = self.page.evaluate("""() => [...document.querySelectorAll('#log > *, .final > *, .user')].filter(element => {
            const box = element.getBoundingClientRect(), log = document.getElementById('log').getBoundingClientRect();
            return box.left < log.left - 1 || box.right > log.right + 1;
        }).map(element => element.outerHTML.slice(0, 200))""")
        assert not out, (self.name, state, out)
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (self.name, state)
        if PICTURES:
            self.page.screenshot(path=str(PICTURES / f"{self.name}-{state}.png"))


def walk(chat: Chat):
    page, last = chat.page, chat.page.locator("article").last
    # An empty page says what to try, and one touch does it.
    expect(page.locator("#ideas button")).to_have_count(3)
    chat.picture("empty")
    page.locator("#ideas button").first.click()
    chat.done()
    expect(page.locator("#empty")).to_be_hidden()
    expect(last.locator(".final")).to_have_text("Hello, wörld!")
    expect(last.locator(".reasoning summary")).to_have_text("Reasoning")

    # Markdown, sanitised.
    page.click("#fresh")
    chat.say("Show me Markdown.")
    for part in ["h1", "ol ul li", "pre code", "table td", "blockquote a[href='https://example.com']", "strong", "em"]:
        assert last.locator(f".final {part}").count() > 0, part
    assert last.locator(".final script, .final img, .final [onerror], .final a[href^='javascript']").count() == 0
    expect(last.locator(".final")).to_contain_text("a bad link")
    assert page.title() == "Ossmith"
    page.evaluate("document.getElementById('scroll').scrollTop = 0")
    chat.picture("answer")

    # Copy: an answer as it was written, and a block of code.
    chat.context.grant_permissions(["clipboard-read", "clipboard-write"])
    last.locator(".actions button", has_text="Copy").click()
    chat.copied("# Sorted lists")
    last.locator(".code button").first.click()
    chat.copied("def merge")

    # The conversation is there after a reload, and goes on.
    page.reload()
    expect(page.locator(".user")).to_have_text("Show me Markdown.")
    expect(last.locator("h1")).to_have_text("Sorted lists")
    before = page.locator("article").count()
    last.locator(".actions button", has_text="Retry").click()
    chat.done()
    assert page.locator("article").count() == before, "a retry takes the place of the answer"

    # An answer that reached the limit is marked; one that is stopped stays.
    chat.say("Count to two thousand.")
    expect(last.locator(".cut")).to_contain_text("limit of tokens")
    page.evaluate("document.getElementById('scroll').scrollTop = 1e9")
    chat.picture("cut")
    page.click("#fresh")
    # These two go on until they are stopped.
    chat.say("Ponder it.", wait=False)
    expect(last.locator(".reasoning summary")).to_have_text("Reasoning …")
    chat.picture("reasoning")
    page.click("#send")
    expect(last.locator(".cut")).to_have_text("Stopped.")
    page.click("#fresh")
    chat.say("Slowly, please.", wait=False)
    expect(last.locator(".final")).to_contain_text("word word")
    page.click("#send")
    expect(last.locator(".cut")).to_have_text("Stopped.")
    chat.picture("stopped")

    # Where the server cannot be reached, the page reports it, and nothing of the question is lost.
    page.click("#fresh")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    chat.say("Is anybody there?")
    expect(last.locator(".error")).to_have_text("The server cannot be reached.")
    expect(last.locator(".actions button", has_text="Retry")).to_be_visible()
    chat.picture("unreachable")
    page.unroute("**/v1/chat/completions")
    # The browser itself logs that a request failed.
    chat.problems = [problem for problem in chat.problems if "ERR_FAILED" not in problem]
    last.locator(".actions button", has_text="Retry").click()
    chat.done()
    expect(last.locator(".final")).to_have_text("Hello, wörld!")

    # A failure in the stream is shown, and can be tried again.
    page.click("#fresh")
    chat.say("Fail.")
    expect(last.locator(".error")).to_have_text("the scripted model fails")
    expect(last.locator(".actions button", has_text="Retry")).to_be_visible()
    chat.picture("failure")

    # What is wrong with the tools is named before anything is sent.
    page.click("#fresh")
    for text, why in [("{not json", "not valid JSON"), ("{}", "not a list"), ('[{"type": "function"}]', "Tool 1 has no name"),
                      ('[{"type": "web_search"}]', 'Tool 1 has no "type": "function"')]:
        page.click("#open") if not page.locator("#settings").is_visible() else None
        page.fill("#tools", text)
        page.click("#settings button.send")
        expect(page.locator("#tools-error")).to_contain_text(why)
        expect(page.locator("#settings")).to_be_visible()
    chat.picture("settings")

    # A call is shown with its arguments, and the reader's result goes back to the model; a reload in between loses nothing.
    page.fill("#tools", TOOL)
    page.click("#settings button.send")
    expect(page.locator("#settings")).to_be_hidden()
    chat.say("What is the weather in Paris?")
    expect(last.locator(".call b")).to_have_text("get_weather")
    chat.picture("call")
    page.reload()
    page.fill(".call input", "It is sunny.")
    page.click(".call form button")
    chat.done()
    expect(last.locator(".final")).to_have_text("The tool returned: It is sunny.")
    chat.picture("result")
    assert not chat.problems, chat.problems
    assert all(url.startswith(URL) for url in chat.requests), chat.requests


def main():
    names = ["chromium", "chromium-browser", "google-chrome"]
    path = next(filter(None, map(shutil.which, names)), None)
    if not path:
        print("NOT CHECKED: the chat page in a browser: no Chromium is installed")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name in SCREENS:
            chat = Chat(browser, name)
            walk(chat)
            chat.context.close()
            print(f"ok chat page, {name}", flush=True)
        browser.close()


main()
