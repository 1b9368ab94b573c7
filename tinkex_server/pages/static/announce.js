// Says something to people who use a screen reader.
export function announce(words) {
  document.getElementById("announcer").textContent = words;
}
