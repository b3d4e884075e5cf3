"use strict";

const show = (id, text) => { document.getElementById(id).textContent = text; };

/* Who is there is Doorward's to say; the page never sees a token. */
async function greet() {
  const answer = await fetch("/auth/me", { headers: { accept: "application/json" } });
  show("who", answer.ok ? (await answer.json()).user.displayName : "nobody");
}

async function keep() {
  const answer = await fetch("notes", { method: "POST", body: "milk" });
  show("note", answer.ok ? await answer.text() : `${answer.status} ${(await answer.json()).code}`);
}

/* Doorward's own stream tells every tab at once that its session is over. */
function watchSession() {
  const session = new EventSource("/auth/events");
  session.addEventListener("open", () => show("session", "open"));
  session.addEventListener("session-ended", () => {
    session.close();
    show("session", "ended elsewhere");
  });
}

/* The app's own stream. When the door has closed it, the next try is refused, and the browser gives up. */
function followNews() {
  const news = new EventSource("news");
  news.addEventListener("message", (event) => show("news", event.data));
  news.addEventListener("error", () => {
    if (news.readyState === EventSource.CLOSED) show("news", "closed");
  });
}

function talk() {
  const address = new URL("talk", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  socket.addEventListener("open", () => socket.send("hello"));
  socket.addEventListener("message", (event) => show("talk", event.data));
  socket.addEventListener("close", (event) => show("talk", `closed ${event.code}`));
}

document.getElementById("save").addEventListener("click", keep);
greet();
watchSession();
followNews();
talk();
