"use strict";
// What a page does by itself: it follows the fleet, counts relative times on, and adds a task's events as they come.
(function () {
  const LONGEST_ANSWER = 200000, MOST_EVENTS = 1000;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
  let ahead = null;

  function relative(seconds) {
    const distance = Math.abs(seconds);
    if (distance < 1) return "now";
    const [unit, size] = units.find(([, size]) => distance >= 2 * size) || units[3];
    const text = `${Math.round(distance / size)} ${unit}`;
    return seconds > 0 ? `${text} ago` : `in ${text}`;
  }

  // Relative times go on in the viewer's clock, corrected by the server's; the exact one, in their zone, is on hover.
  function tick() {
    const now = Date.now() - (ahead || 0);
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      const exact = zone.format(at);
      if (time.title !== exact) time.title = exact;
      if (time.closest(".event")) continue;
      const text = relative((now - at) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function say(text, good) {
    const place = document.getElementById("live-state");
    if (!place) return;
    place.hidden = false;
    place.classList.toggle("live-off", !good);
    const line = place.querySelector("[data-live-words]");
    if (line.textContent !== text) line.textContent = text;
  }

  // An event source while the page is seen: a browser has few connections for all its windows.
  function follow(address, listeners, over) {
    let source = null, ended = false;
    function open() {
      if (source || ended || document.hidden) return;
      source = new EventSource(address());
      source.onopen = () => say("Live", true);
      source.onerror = () => {
        say("Reconnecting", false);
        // Refused for good, as while the server was full: try again by ourselves.
        if (source && source.readyState === EventSource.CLOSED) { close(); setTimeout(open, 5000); }
      };
      for (const [name, hear] of Object.entries(listeners)) source.addEventListener(name, hear);
    }
    function close() { if (source) { source.close(); source = null; } }
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    window.addEventListener("pagehide", close);
    window.addEventListener("pageshow", open);
    open();
    return { end() { ended = true; close(); if (over) over(); } };
  }

  function followPage() {
    const place = document.querySelector("[data-live]");
    if (!place) return;
    follow(() => place.dataset.live, {
      page(event) {
        // What somebody has open or selects stays as it is; the next change comes in a second.
        const chosen = window.getSelection();
        if (chosen && !chosen.isCollapsed && place.contains(chosen.anchorNode)) return;
        const open = [...place.querySelectorAll("details")].map((part) => part.open);
        if (open.includes(true)) return;
        const focused = place.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
        const scrolled = [...place.querySelectorAll(".scroll")].map((part) => part.scrollLeft);
        window.htmx.swap(place, event.data, { swapStyle: "innerHTML" });
        tick();
        [...place.querySelectorAll(".scroll")].forEach((part, at) => { part.scrollLeft = scrolled[at] || 0; });
        if (focused) {
          const again = [...place.querySelectorAll("a[href]")].find((link) => link.getAttribute("href") === focused);
          if (again) again.focus({ preventScroll: true });
        }
      },
    });
  }

  function followTask() {
    const answer = document.getElementById("answer");
    if (!answer || !answer.dataset.events) return;
    const events = document.getElementById("events");
    let attempt = Number(answer.dataset.attempt), last = "";
    function hint(name) { const found = document.getElementById(name); if (found) found.remove(); }
    function text(event) {
      last = event.lastEventId || last;
      const said = JSON.parse(event.data);
      hint("answer-hint");
      if (said.attempt && said.attempt !== attempt) { attempt = said.attempt; answer.textContent = ""; }
      answer.append(said.text);
      if (answer.textContent.length > LONGEST_ANSWER) answer.textContent = answer.textContent.slice(-LONGEST_ANSWER / 2);
      answer.scrollTop = answer.scrollHeight;
    }
    const address = () => {
      const place = new URL(answer.dataset.events, location.href);
      if (last) place.searchParams.set("after", last);
      return place;
    };
    const following = follow(address, {
      text,
      row(event) {
        last = event.lastEventId || last;
        hint("events-hint");
        const row = document.createElement("template");
        row.innerHTML = event.data;
        events.append(row.content);
        while (events.children.length > MOST_EVENTS) events.firstElementChild.remove();
        tick();
      },
      end() { following.end(); },
    });
  }

  function start() {
    const made = document.querySelector("[data-now]");
    if (made) ahead = Date.now() - Number(made.dataset.now) * 1000;
    tick();
    setInterval(tick, 1000);
    followPage();
    followTask();
  }
  start();
})();
