// The switch of settings, and a page that renews itself while runs go on.

const EVERY = 3000; // ms between two looks

function choose() {
  const chosen = document.querySelector("[data-switch] input:checked");
  if (!chosen) return;
  for (const part of document.querySelectorAll("[data-setting]"))
    part.hidden = chosen.value !== "" && part.dataset.setting !== chosen.value;
}
document.querySelector("[data-switch]")?.addEventListener("change", choose);
document.addEventListener("renewed", choose);
choose();

// Parts named data-renew are replaced where they differ; what is read or typed elsewhere stays.
let state = document.body.dataset.live; // of the files that the page was made of
async function look() {
  try {
    const now = await (await fetch("state?" + encodeURIComponent(location.pathname))).text();
    if (now !== state) await renew();
    state = now;
    document.body.classList.remove("gone");
  } catch (error) {
    console.warn(String(error));
    document.body.classList.add("gone"); // who served it has ended: the page stays
  }
  setTimeout(look, EVERY);
}

async function renew() {
  const text = await (await fetch(location.href)).text();
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const parts = [...fresh.querySelectorAll("[data-renew]")]; // each moves from there to here
  const names = new Set(parts.map((part) => part.dataset.renew));
  for (const part of parts) {
    const old = document.querySelector(`[data-renew="${CSS.escape(part.dataset.renew)}"]`);
    if (old?.isEqualNode(part)) continue;
    if (old) old.replaceWith(part);
    else if (part.dataset.renew.startsWith("setting-")) document.getElementById("runs")?.before(part);
    else document.getElementById("main").prepend(part);
  }
  for (const old of document.querySelectorAll("[data-renew]"))
    if (!names.has(old.dataset.renew)) old.remove();
  document.dispatchEvent(new Event("renewed"));
}
if ("live" in document.body.dataset) look();
