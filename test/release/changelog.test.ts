import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { manifestOf } from "../../scripts/release/packages.ts";
import { root } from "../support/sources.ts";

const text = readFileSync(join(root, "CHANGELOG.md"), "utf8");
const headings = [...text.matchAll(/^## (.+)$/gm)].map(([, heading]) => heading);

test("the changelog lists versions with their dates, newest first, the package's among them", () => {
  expect(headings[0]).toBe("[Unreleased]");
  const releases = headings.slice(1).map((heading) => {
    expect(heading).toMatch(/^\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d$/);
    const [, version, date] = /^\[(.+)\] - (.+)$/.exec(heading)!;
    return { version, date };
  });
  const falling = [...releases].sort((a, b) => Bun.semver.order(b.version, a.version));
  expect(releases).toEqual(falling);
  expect(releases.map(({ date }) => date)).toEqual(
    releases
      .map(({ date }) => date)
      .sort()
      .reverse(),
  );
  expect(releases.map(({ version }) => version)).toContain(manifestOf().version);
});

test("it groups changes as Keep a Changelog does", () => {
  const groups = [...text.matchAll(/^### (.+)$/gm)].map(([, group]) => group);
  const known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
  expect(groups.filter((group) => !known.includes(group))).toEqual([]);
});
