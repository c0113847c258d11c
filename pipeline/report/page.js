"use strict";

const all = (selector) => Array.from(document.querySelectorAll(selector));
const chosen = { label: document.getElementById("label"), prediction: document.getElementById("prediction") };

function showMistakes() {
  let shown = 0;
  for (const item of all("#mistakes li")) {
    item.hidden = Object.entries(chosen).some(([name, select]) => select.value && select.value !== item.dataset[name]);
    shown += item.hidden ? 0 : 1;
  }
  document.getElementById("shown").textContent = `${shown} shown`;
}

function showExample(number) {
  for (const part of all("[data-example]")) part.hidden = part.dataset.example !== number;
}

for (const select of Object.values(chosen)) select.addEventListener("change", showMistakes);
document.querySelector(".filter").addEventListener("reset", () => setTimeout(showMistakes));
for (const link of all("a[data-label]")) {
  link.addEventListener("click", () => {
    for (const [name, select] of Object.entries(chosen)) select.value = link.dataset[name];
    showMistakes();
  });
}
for (const radio of all("input[name=example]")) radio.addEventListener("change", () => showExample(radio.value));

// A reloaded page may come with the choices of before.
showMistakes();
const example = document.querySelector("input[name=example]:checked");
if (example) showExample(example.value);
