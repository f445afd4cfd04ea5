// Shows what a mark says beside the pointer, or beside the mark that has the keyboard's focus.
const tip = document.getElementById("tip");

function show(mark, x, y) {
  const [head, ...lines] = mark.dataset.says.split("\n");
  const title = document.createElement("strong");
  title.textContent = head;
  tip.replaceChildren(title, ["", ...lines].join("\n"));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const { clientWidth, clientHeight } = document.documentElement;
  const left = x + 14 + width > clientWidth ? x - 14 - width : x + 14;
  const top = y + 14 + height > clientHeight ? y - 14 - height : y + 14;
  tip.style.left = `${Math.max(left, 4) + window.scrollX}px`;
  tip.style.top = `${Math.max(top, 4) + window.scrollY}px`;
}

function hide() {
  tip.hidden = true;
}

// On the document: a mark that listens to focus itself could be reached by the keyboard.
document.addEventListener("pointermove", ({ target, clientX, clientY }) => {
  const mark = target.closest("[data-says]");
  if (mark) show(mark, clientX, clientY);
  else hide();
});
document.addEventListener("focusin", ({ target }) => {
  if (!target.dataset.says) return;
  const { left, top, width, height } = target.getBoundingClientRect();
  show(target, left + width / 2, top + height / 2);
});
document.addEventListener("focusout", hide);
document.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
