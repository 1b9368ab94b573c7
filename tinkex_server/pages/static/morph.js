// Turns one element into another by the fewest changes, so that focus, scroll positions, opened
// details and half-typed input stay as they are, and nothing flickers.

// what the user changes, not the server
const KEPT = { DETAILS: ["open"], INPUT: ["value"], DIALOG: ["open"] };

export function morph(from, to) {
  if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName) {
    from.replaceWith(to.cloneNode(true));
  } else if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
  } else if (!from.hasAttribute("data-keep")) {
    morphAttributes(from, to);
    morphChildren(from, to);
  }
}

function morphAttributes(from, to) {
  const kept = KEPT[from.nodeName] ?? [];
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !kept.includes(name)) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value && !kept.includes(name)) from.setAttribute(name, value);
  }
}

function morphChildren(from, to) {
  let old = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const same = find(old, wanted);
    if (!same) {
      from.insertBefore(wanted.cloneNode(true), old);
      continue;
    }
    if (same !== old) from.insertBefore(same, old);
    old = same.nextSibling;
    morph(same, wanted);
  }
  while (old) {
    const next = old.nextSibling;
    old.remove();
    old = next;
  }
}

// Returns the old node, from `node` on, that is to become `wanted`: the one of the same id, or the
// very next one if it is alike and has no id of its own.
function find(node, wanted) {
  if (wanted.id) {
    for (let other = node; other; other = other.nextSibling) {
      if (other.id === wanted.id && other.nodeName === wanted.nodeName) return other;
    }
    return null;
  }
  return node && node.nodeName === wanted.nodeName && !node.id ? node : null;
}
