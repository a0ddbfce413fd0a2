// The one state of the page, and the link that holds it.
//
//   store.declare("head", { initial: 0, read: Number, write: String });   in the link as head=3 (or as `as`)
//   store.declare("info", { initial: null });                             not in the link
//   store.set({ head: 3 });  store.state.head;  store.on(["head"], () => draw());

export function makeStore() {
  const fields = new Map(), listeners = [], state = {};
  let changed = new Set(), telling = false;

  function declare(name, { initial, read = null, write = null, as = name, visit = false }) {
    fields.set(name, { initial, read, write, as, visit });
    state[name] = initial;
  }

  const same = (name, a, b) => {
    if (Object.is(a, b)) return true;
    const { write } = fields.get(name);
    return write !== null && a !== null && b !== null && write(a) === write(b);
  };

  // A linked value as the link will reproduce it: what is seen now and what is seen then are one.
  function asLinked(name, value) {
    const { read, write } = fields.get(name);
    return write === null || value === null ? value : read(write(value)) ?? value;
  }

  // Changes some fields, then calls each listener of a changed one, once. A listener may set more.
  function set(change) {
    for (const [name, value] of Object.entries(change)) {
      if (!fields.has(name)) throw new Error(`the page's state has no ${name}`);
      if (same(name, state[name], value)) continue;
      state[name] = asLinked(name, value);
      changed.add(name);
    }
    if (telling) return;
    telling = true;
    try {
      while (changed.size) {
        const names = changed;
        changed = new Set();
        for (const listener of listeners) if (listener.names.some((name) => names.has(name))) listener.call(names);
      }
    } finally {
      telling = false;
    }
  }

  function on(names, call) {
    for (const name of names) if (!fields.has(name)) throw new Error(`the page's state has no ${name}`);
    listeners.push({ names, call });
  }

  // The linked fields that differ from their initial value, as in `#study=test-4&pin=0:.5:.4`.
  function link() {
    const query = new URLSearchParams();
    for (const [name, { initial, write, as }] of fields)
      if (write !== null && state[name] !== null && !same(name, state[name], initial)) query.set(as, write(state[name]));
    return `#${query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":")}`;
  }

  // Sets every linked field from a link; what it does not name, or names wrongly, gets its initial value.
  function follow(hash) {
    const query = new URLSearchParams(hash.replace(/^#/, "")), change = {};
    for (const [name, { initial, read, as }] of fields) {
      if (read === null) continue;
      const text = query.get(as);
      change[name] = text === null ? initial : read(text) ?? initial;
    }
    set(change);
  }

  return { state, declare, set, on, link, follow, fields };
}

// Ties the state to the address: a change of a field declared with `visit` is a step that the browser's Back undoes.
export function bindAddress(store) {
  const linked = [...store.fields].filter(([, field]) => field.write !== null).map(([name]) => name);
  let following = false, timer = 0;
  const replace = () => {
    clearTimeout(timer);
    if (location.hash !== store.link()) history.replaceState(null, "", store.link());
  };
  store.on(linked, (names) => {
    if (following) return;
    if ([...names].some((name) => store.fields.get(name).visit)) {
      clearTimeout(timer);
      history.pushState(null, "", store.link());
    } else {
      clearTimeout(timer);
      timer = setTimeout(replace, 120); // a zoom is many changes; browsers limit how often an address may change
    }
  });
  const follow = () => {
    clearTimeout(timer);
    if (location.hash === store.link()) return;
    following = true;
    try { store.follow(location.hash); } finally { following = false; }
  };
  window.addEventListener("popstate", follow);
  window.addEventListener("hashchange", follow);
  return { follow, replace };
}

// Fields as text. A field that cannot be read gives undefined, and the link's initial value stays.
export const whole = { read: (text) => (/^\d{1,15}$/.test(text) ? Number(text) : undefined), write: String };
export const text = { read: (value) => value.slice(0, 96), write: (value) => value };
export const oneOf = (...values) => ({ read: (value) => (values.includes(value) ? value : undefined), write: String });
export const wholes = {
  read: (value) => (/^\d{1,4}(,\d{1,4})*$/.test(value) ? value.split(",").map(Number) : undefined),
  write: (value) => value.join(","),
};
