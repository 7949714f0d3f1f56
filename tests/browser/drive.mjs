// Opens the page in a headless Chromium, gives it each text of standard input (a list in JSON), and prints what it shows for each.
import { createRequire } from "node:module";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [url, chromium, packages] = process.argv.slice(2);
const { chromium: driver } = createRequire(`${packages}/`)("playwright-core");
const profile = mkdtempSync(join(tmpdir(), "penstock-browser-"));
const quiet = [
  "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
  "--disable-dev-shm-usage",
];
const browser = await driver.launchPersistentContext(profile, { executablePath: chromium, chromiumSandbox: false, headless: true, args: quiet });
try {
  const page = await browser.newPage();
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));
  await page.goto(url);
  const answers = page.locator("#answers");
  await page.waitForFunction(() => !document.getElementById("answers").textContent.startsWith("opening"), null, { timeout: 60000 });
  const shown = [await answers.textContent()];
  for (const text of JSON.parse(readFileSync(0, "utf8"))) {
    if (await page.locator("#score").isDisabled()) break;
    await answers.evaluate((node) => (node.textContent = ""));
    await page.locator("#events").fill(text);
    await page.locator("#score").click();
    await page.waitForFunction(() => document.getElementById("answers").textContent, null, { timeout: 60000 });
    shown.push(await answers.textContent());
  }
  console.log(JSON.stringify({ shown, asked }));
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
