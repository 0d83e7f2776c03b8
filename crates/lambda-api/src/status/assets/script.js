// Asks for the page's content while somebody looks at it, and puts it in place where it differs.
"use strict";
(() => {
  const content = document.getElementById("content");
  const connection = document.getElementById("connection");
  const source = content && content.dataset.live;
  if (!source) return;
  const pause = 1000;
  const longestPause = 10000;
  let failures = 0;
  let tag = null;

  const say = (text) => {
    if (connection.textContent !== text) connection.textContent = text;
  };

  // Only what differs is replaced: what has the focus or is selected stays as it is.
  const adapt = (old, fresh) => {
    if (old.isEqualNode(fresh)) return;
    const alike = old.nodeType === Node.ELEMENT_NODE && fresh.nodeType === Node.ELEMENT_NODE
      && old.tagName === fresh.tagName;
    if (!alike) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const before = [...old.childNodes];
    const after = [...fresh.childNodes];
    // A table's rows move down when one comes at its top.
    const key = (node) => node.dataset && (node.dataset.request || node.dataset.instance || node.dataset.function);
    if (old.tagName === "TBODY") {
      const known = new Map(before.filter(key).map((row) => [key(row), row]));
      const rows = after.map((row) => {
        const same = known.get(key(row));
        if (!same) return document.importNode(row, true);
        adapt(same, row);
        return same;
      });
      before.filter((row) => !rows.includes(row)).forEach((row) => row.remove());
      rows.forEach((row, place) => {
        if (old.childNodes[place] !== row) old.insertBefore(row, old.childNodes[place] || null);
      });
      return;
    }
    after.forEach((node, place) => {
      if (place < before.length) adapt(before[place], node);
      else old.append(document.importNode(node, true));
    });
    before.slice(after.length).forEach((node) => node.remove());
  };

  const look = async () => {
    if (!document.hidden) {
      try {
        const headers = tag ? { "If-None-Match": tag } : {};
        const response = await fetch(source, { headers, cache: "no-store" });
        if (response.status === 200) {
          tag = response.headers.get("ETag");
          const parsed = new DOMParser().parseFromString(await response.text(), "text/html");
          const fresh = content.cloneNode(false);
          fresh.append(...parsed.body.childNodes);
          adapt(content, fresh);
        } else if (response.status !== 304) {
          throw new Error(response.status);
        }
        failures = 0;
        say("live");
      } catch {
        failures += 1;
        tag = null;
        say("The server does not answer.");
      }
    }
    setTimeout(look, Math.min(pause * 2 ** failures, longestPause));
  };
  document.addEventListener("visibilitychange", () => { failures = 0; });
  setTimeout(look, pause);
})();
