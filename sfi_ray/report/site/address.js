// What the reader chose, in the page's address: `#section?key=value`. It works from a file, and a link keeps it.

const address = {
  read() {
    const [place, query = ""] = location.hash.slice(1).split("?");
    return { place, chosen: new URLSearchParams(query) };
  },
  write(place, chosen) {
    const query = chosen.size ? `?${chosen}` : "";
    history.replaceState(null, "", place || query ? `#${place}${query}` : location.pathname);
  },
  /** Remembers a choice, or forgets one that is empty. */
  choose(name, value) {
    const { place, chosen } = address.read();
    if (value === "" || value === false) chosen.delete(name);
    else chosen.set(name, value);
    address.write(place, chosen);
  },
  /** Shows a section without forgetting what was chosen. */
  follow(event) {
    const link = event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault();
    const place = link.getAttribute("href").slice(1);
    address.write(place, address.read().chosen);
    address.show(place, true);
  },
  show(place, isChosen = false) {
    const section = place && document.getElementById(place);
    if (!section) return;
    section.scrollIntoView();
    if (!isChosen) return;
    section.tabIndex = -1;
    section.focus({ preventScroll: true });
  },
};
