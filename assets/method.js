// The drawer that explains the method, beside the slider, which stays usable.
"use strict";
window.acipMethod ??= (() => {
  function follow(element) {
    const drawer = element.querySelector(".drawer");
    const opener = document.querySelector("[data-method]");
    const show = (open) => {
      drawer.hidden = !open;
      opener.setAttribute("aria-expanded", open);
      (open ? drawer : opener).focus();
    };
    opener.addEventListener("click", () => show(drawer.hidden));
    drawer.querySelector("[data-close]").addEventListener("click", () => show(false));
    document.addEventListener("keydown", (event) => event.key === "Escape" && !drawer.hidden && show(false));
  }

  return { follow };
})();
