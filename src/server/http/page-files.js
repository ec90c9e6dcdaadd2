/* @ts-self-types="./page-files.d.ts" */

/** The page's files as text. Unlike a path, an import takes them into a bundle of `bun build`. */

import client from "./page/client.js" with { type: "text" };
import dom from "./page/dom.js" with { type: "text" };
import format from "./page/format.js" with { type: "text" };
import memoryViews from "./page/memory-views.js" with { type: "text" };
import modelView from "./page/model-view.js" with { type: "text" };
import style from "./page/page.css" with { type: "text" };
import html from "./page/page.html" with { type: "text" };
import page from "./page/page.js" with { type: "text" };

export const pageFiles = {
  "client.js": client,
  "dom.js": dom,
  "format.js": format,
  "memory-views.js": memoryViews,
  "model-view.js": modelView,
  "page.css": style,
  "page.html": html,
  "page.js": page,
};
