/** Elements. Names of models and tags are arbitrary text: they are set as text, never as markup. */

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Readonly<Record<string, string>>} [attributes]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function element(name, attributes = {}, ...children) {
  const created = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) created.setAttribute(attribute, value);
  created.append(...children);
  return created;
}

/**
 * @template {HTMLElement} Kind
 * @param {string} id
 * @param {new () => Kind} kind
 * @returns {Kind}
 */
export function find(id, kind) {
  const found = document.getElementById(id);
  if (found instanceof kind) return found;
  throw new Error(`the page has no ${kind.name} named ${id}`);
}

let idCount = 0;
export const newId = () => `id-${++idCount}`;

/**
 * Removes the views of missing keys and adds views of new keys. Other views keep their elements, and so the focus.
 *
 * @template Key
 * @template {{ element: HTMLElement }} View
 * @param {Map<Key, View>} views
 * @param {HTMLElement} parent
 * @param {readonly Key[]} keys
 * @param {(key: Key) => View} create
 */
export function updateViews(views, parent, keys, create) {
  for (const [key, view] of views) {
    if (keys.includes(key)) continue;
    view.element.remove();
    views.delete(key);
  }
  for (const key of keys) {
    if (views.has(key)) continue;
    const view = create(key);
    views.set(key, view);
    parent.append(view.element);
  }
}
