/** Splits a command as a shell does, without running one: blanks separate, quotes and backslashes keep. */

/** Undefined where a quote is not closed. */
export function splitCommand(text: string): string[] | undefined {
  const words: string[] = [];
  let word: string | undefined;
  let quote = "";
  for (let index = 0; index < text.length; index++) {
    const character = text[index] ?? "";
    if (quote === "'" && character !== "'") word = `${word ?? ""}${character}`;
    else if (character === "\\" && index + 1 < text.length) {
      index++;
      // A backslash at the end of a line continues the command on the next.
      if (text[index] !== "\n") word = `${word ?? ""}${text[index]}`;
    } else if (character === quote) quote = "";
    else if (quote === "" && (character === "'" || character === '"')) {
      quote = character;
      word ??= "";
    } else if (quote === "" && /\s/.test(character)) {
      if (word !== undefined) words.push(word);
      word = undefined;
    } else word = `${word ?? ""}${character}`;
  }
  if (quote !== "") return undefined;
  return word === undefined ? words : [...words, word];
}
