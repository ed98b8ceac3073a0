"""The chat page in a real headless Chromium, on a screen of a phone's size."""

import shutil

from playwright.sync_api import sync_playwright

TOOL = """[{"type": "function", "function": {"name": "get_weather", "description": "The weather in a city.",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]"""


def chats(client, model: str):
    browser_path = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if not browser_path:
        print("NOT CHECKED: the chat page in a browser: no Chromium is installed")
        return
    root = str(client.base_url).rsplit("/v1", 1)[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        # The page forbids evaluated scripts; those of the test are.
        page = browser.new_page(viewport={"width": 390, "height": 780}, bypass_csp=True)
        problems, asked = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(root + "/")
        page.wait_for_function(f"document.getElementById('model').textContent === {model!r}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it fits a phone's width"

        page.click("#open")
        page.fill("#temperature", "0")
        page.click("#settings button")
        page.fill("#text", "What is 17 + 25?")
        page.click("#send")
        page.wait_for_function("document.querySelector('.final')?.textContent.includes('42')", timeout=60000)
        assert "42" in page.text_content(".reasoning")
        page.wait_for_function("document.getElementById('send').textContent === 'Send'", timeout=60000)

        # A call is shown with its arguments, and the reader's result goes back to the model.
        page.click("#fresh")
        page.click("#open")
        page.fill("#tools", TOOL)
        page.click("#settings button")
        page.fill("#text", "What is the weather in Paris?")
        page.click("#send")
        page.wait_for_function("document.getElementById('send').textContent === 'Send'", timeout=60000)
        if page.query_selector(".call"):
            assert "get_weather" in page.text_content(".call")
            page.fill(".call input", "sunny")
            page.click(".call button")
            page.wait_for_function("document.querySelectorAll('.reasoning').length > 1 || document.querySelector('.final')", timeout=60000)
        assert not problems, problems
        assert all(url.startswith(root) for url in asked), asked
        browser.close()


CASES = [chats]
