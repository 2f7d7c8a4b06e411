(() => {
  "use strict";

  const code = document.getElementById("token");
  const request = document.getElementById("request");
  const confirm = document.querySelector("details#confirm");

  function takeCode() {
    const fragment = location.hash.slice(1);
    if (!fragment || document.getElementById(fragment)) return; // empty, or an anchor of this page
    if (!code) {
      // A link pasted over an answer differs from it in the fragment only: the empty query makes the page load.
      location.replace(`${location.pathname}?${location.hash}`);
      return;
    }
    history.replaceState(null, "", location.pathname + location.search);
    code.value = fragment;
    code.removeAttribute("aria-invalid");
    document.getElementById("error-summary")?.remove();
    document.title = document.title.replace(/^Error: /, "");
    showWhatIsNeeded();
  }

  function showWhatIsNeeded() {
    const filled = code.value !== "" && !code.hasAttribute("aria-invalid");
    document.getElementById("token-field").hidden = filled;
    if (!confirm) return;
    confirm.open = filled;
    confirm.querySelector("summary").hidden = filled;
    request.hidden = filled;
  }

  function revealing(button) {
    const password = document.getElementById(button.getAttribute("aria-controls"));
    const status = document.getElementById(`${password.id}-status`);
    const show = (visible) => {
      password.type = visible ? "text" : "password";
      button.textContent = visible ? "Hide password" : "Show password";
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      show(password.type === "password");
      status.textContent = password.type === "text" ? "Your password is visible" : "Your password is hidden";
    });
    password.form.addEventListener("submit", () => show(false)); // browsers remember what was typed as text
  }

  // A link works once: the second half of a double click would be answered with "no longer works".
  function submittingOnce(form) {
    let sent = -Infinity;
    form.addEventListener("submit", (event) => {
      if (event.timeStamp - sent < 3000) event.preventDefault();
      else sent = event.timeStamp;
    });
  }

  if (code) showWhatIsNeeded();
  takeCode();
  addEventListener("hashchange", takeCode);
  document.querySelectorAll("button[aria-controls]").forEach(revealing);
  document.querySelectorAll("form").forEach(submittingOnce);
  document.getElementById("error-summary")?.focus();
})();
