(() => {
  "use strict";

  const code = document.getElementById("token");
  const view = document.getElementById("view");
  const opening = document.getElementById("opening");

  // The code in a link's fragment is looked at before the person is asked for anything.
  function openLink() {
    const fragment = location.hash.slice(1);
    if (!fragment || document.getElementById(fragment)) return; // empty, or an anchor of this page
    if (!code) {
      // A link pasted over a response differs from it in the fragment only: the empty query makes the page load.
      location.replace(`${location.pathname}?${location.hash}`);
      return;
    }
    history.replaceState(null, "", location.pathname + location.search);
    code.value = fragment;
    waiting(true);
    code.form.submit();
  }

  function waiting(is) {
    opening.hidden = !is;
    view.hidden = is;
    if (is) document.getElementById("error-summary")?.remove();
  }

  function revealing(button) {
    const password = document.getElementById(button.getAttribute("aria-controls"));
    const status = document.getElementById(`${password.id}-status`);
    const show = (type) => {
      if (password.type === type) return;
      password.type = type;
      [button.textContent, button.dataset.other] = [button.dataset.other, button.textContent];
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      show(password.type === "password" ? "text" : "password");
      status.textContent = status.dataset[password.type];
    });
    password.form.addEventListener("submit", () => show("password")); // browsers remember what was typed as text
  }

  // A link works once: the second half of a double click would be answered with "no longer works".
  function submittingOnce(form) {
    let sent = -Infinity;
    form.addEventListener("submit", (event) => {
      if (event.timeStamp - sent < 3000) event.preventDefault();
      else sent = event.timeStamp;
    });
  }

  // Without this script the form for the code is open.
  document.querySelectorAll("details.code").forEach((details) => {
    details.open = code.value !== "" || code.hasAttribute("aria-invalid");
  });
  openLink();
  addEventListener("hashchange", openLink);
  addEventListener("pageshow", (event) => {
    if (event.persisted) waiting(false); // the browser went back to this page, as it was left
  });
  document.querySelectorAll("button[aria-controls]").forEach(revealing);
  document.querySelectorAll("form").forEach(submittingOnce);
  document.getElementById("error-summary")?.focus();
})();
