import type { PlacedToken } from "./continuation.ts";
import type { IndexedPiece } from "./generation.ts";

/** A whole text. */
interface Choice {
  readonly index: number;
  readonly text: string;
  readonly tokens: readonly PlacedToken[];
}

/** The properties in which the answers of the endpoints differ. */
export interface AnswerFormat {
  readonly idPrefix: string;
  readonly object: string;
  readonly chunkObject: string;
  readonly choice: (choice: Choice) => object;
  /** What comes before the first piece of the text with this index; undefined for nothing. */
  readonly firstChunk: (index: number) => object | undefined;
  readonly chunk: (piece: IndexedPiece) => object;
}
