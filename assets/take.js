// Taking the model along: progress of the export, its download, and code that names this page and the current size.
"use strict";
window.acipTake = (() => {
  function follow(element, props, watch) {
    const status = element.querySelector(".status");
    const link = element.querySelector("a.file");
    const bar = element.querySelector("progress");
    let newest = 0;
    let fetched = "";
    watch("value", () => {
      const message = props.value;
      if (!message || message.run < newest) return;
      newest = message.run;
      element.dataset.state = message.state;
      status.textContent = message.status;
      bar.hidden = message.state !== "running";
      bar.value = message.done;
      link.hidden = !message.address;
      if (!message.address || fetched === message.address) return;
      fetched = message.address;
      link.href = message.address;
      link.textContent = `${message.name}.zip`;
      element.querySelector(".load code").textContent = message.code;
      link.click();
    });
    for (const code of element.querySelectorAll("code")) {
      code.textContent = code.textContent.replaceAll(props.address, location.origin + location.pathname);
    }
    for (const button of element.querySelectorAll("[data-copy]")) {
      button.addEventListener("click", async () => {
        const code = button.closest(".snippet").querySelector("code").textContent;
        try {
          await navigator.clipboard.writeText(code);
          button.textContent = "Copied";
        } catch {
          button.textContent = "Select and copy"; // a page without https may not
        }
        setTimeout(() => (button.textContent = "Copy"), 2000);
      });
    }
  }
  return { follow };
})();
