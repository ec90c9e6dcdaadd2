/** Reads a JSON object field by field, so that a large one need not be parsed in one go. */

/** A field of an object: its value and the text of that. */
interface JsonField {
  readonly key: string;
  readonly value: unknown;
  readonly valueText: string;
}

const whiteSpace = /[ \t\n\r]*/y;

const codes = { quote: 0x22, backslash: 0x5c, comma: 0x2c, open: [0x7b, 0x5b], close: [0x7d, 0x5d] } as const;

/** Reads the fields of the object whose text is `text`, in their order. */
export class JsonFieldReader {
  readonly #text: string;
  #index = 0;
  #isFirst = true;

  /** @param text begins with a brace */
  constructor(text: string) {
    this.#text = text;
    this.#index = 1;
  }

  /**
   * The next field; undefined after the last one.
   *
   * @throws SyntaxError where the text is not JSON
   */
  next(): JsonField | undefined {
    const field = this.nextText();
    return field && { ...field, value: JSON.parse(field.valueText) };
  }

  /** As {@link next}, without parsing the value, which may not be JSON. */
  nextText(): Omit<JsonField, "value"> | undefined {
    this.#skipWhiteSpace();
    if (this.#isFirst ? this.#text[this.#index] === "}" : !this.#skipComma()) return this.#end();
    this.#isFirst = false;
    const key = this.#key();
    const begin = this.#index;
    this.#index = endOfValue(this.#text, begin);
    return { key, valueText: this.#text.slice(begin, this.#index) };
  }

  #key(): string {
    this.#skipWhiteSpace();
    const begin = this.#index;
    if (this.#text.charCodeAt(begin) !== codes.quote) throw this.#unexpected();
    this.#index = endOfString(this.#text, begin);
    const key: string = JSON.parse(this.#text.slice(begin, this.#index));
    this.#skipWhiteSpace();
    if (this.#text[this.#index] !== ":") throw this.#unexpected();
    this.#index++;
    return key;
  }

  #skipComma(): boolean {
    if (this.#text[this.#index] === "}") return false;
    if (this.#text.charCodeAt(this.#index) !== codes.comma) throw this.#unexpected();
    this.#index++;
    return true;
  }

  #end(): undefined {
    this.#index++;
    this.#skipWhiteSpace();
    if (this.#index < this.#text.length) throw this.#unexpected();
    this.#index = this.#text.length - 1; // at the brace: a further call ends the same
  }

  #skipWhiteSpace(): void {
    whiteSpace.lastIndex = this.#index;
    whiteSpace.test(this.#text);
    this.#index = whiteSpace.lastIndex;
  }

  #unexpected(): SyntaxError {
    const found = this.#text[this.#index];
    return new SyntaxError(
      found === undefined ? "unexpected end" : `unexpected ${JSON.stringify(found)} at ${this.#index}`,
    );
  }
}

/** The index of the comma or bracket behind the value that begins at `start`; the end of the text without one. */
function endOfValue(text: string, start: number): number {
  let depth = 0;
  let index = start;
  while (index < text.length) {
    const code = text.charCodeAt(index);
    if (code === codes.quote) {
      index = endOfString(text, index);
      continue;
    }
    if (code === codes.open[0] || code === codes.open[1]) depth++;
    else if (depth === 0 && code === codes.comma) return index;
    else if (code === codes.close[0] || code === codes.close[1]) {
      if (depth === 0) return index;
      depth--;
    }
    index++;
  }
  return index;
}

/** The index after the closing quote of the string that opens at `start`; the end of the text without one. */
export function endOfString(text: string, start: number): number {
  for (let index = start + 1; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code === codes.quote) return index + 1;
    if (code === codes.backslash) index++;
  }
  return text.length;
}
