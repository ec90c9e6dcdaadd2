/** Comments, texts and documents are plain English: these phrases have a plainer one. */

import { expect, test } from "bun:test";
import { sources, typeScript, zig } from "./sources.ts";

const plainer: readonly { readonly phrase: RegExp; readonly write: string }[] = [
  { phrase: /\bmend(s|ed|ing)?\b/gi, write: "fix or remedy" },
  { phrase: /\b(goes|go|went|going) before\b/gi, write: "override or precede" },
  { phrase: /\bone whose\b/gi, write: "the noun itself" },
  { phrase: /\b(comes|come|came) to\b/gi, write: "is, settles as or totals" },
  { phrase: /\bof which\b/gi, write: "a second sentence" },
  { phrase: /\b(is|are|was|were|be|been) told\b/gi, write: "reported, announced or receives" },
  { phrase: /\b(has|have|had|having) to be\b/gi, write: "must be" },
  { phrase: /\bby that of\b/gi, write: "the noun itself" },
];

/** The language guide quotes phrases to avoid, in a table. */
const isQuotation = (path: string, line: string) => path === "CONTRIBUTING.md" && line.startsWith("| ");

test("no text uses a phrase that has a plainer one", () => {
  const files = sources(
    ...typeScript,
    ...zig,
    "{src,bench,test}/**/*.{c,h,css,html}",
    "*.md",
    "{docs,examples,bench}/**/*.md",
  ).filter(({ path }) => path !== "test/tidy/english.test.ts");
  const breaks = files.flatMap(({ path, text }) =>
    text.split("\n").flatMap((line, index) => {
      if (isQuotation(path, line)) return [];
      const found = plainer.flatMap(({ phrase, write }) =>
        [...line.matchAll(phrase)].map(([bad]) => ({ bad, write })),
      );
      return found.map(({ bad, write }) => `${path}:${index + 1}: "${bad}": write ${write}`);
    }),
  );
  expect(breaks).toEqual([]);
});
