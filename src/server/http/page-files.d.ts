/** TypeScript would read the imports of text as modules. */

export type PageFileName =
  | "client.js"
  | "dom.js"
  | "format.js"
  | "memory-views.js"
  | "model-view.js"
  | "page.css"
  | "page.html"
  | "page.js";

export const pageFiles: Readonly<Record<PageFileName, string>>;
