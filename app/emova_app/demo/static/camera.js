// One tap: the camera's picture, live; another: it is taken.
(() => {
  const { blocked, sheet } = window.emova;

  // `ontaken` gets a JPEG file; `onproblem` a line for the visitor.
  window.emova.camera = (dialog, { ontaken, onproblem }) => {
    const video = dialog.querySelector("video");
    const shutter = dialog.querySelector("[data-do=shutter]");
    let stream = null;
    sheet(dialog);
    const stop = () => {
      if (stream) stream.getTracks().forEach((track) => track.stop());
      stream = video.srcObject = null;
    };
    dialog.addEventListener("close", stop);
    shutter.addEventListener("click", () => {
      if (!video.videoWidth) return;
      const canvas = document.createElement("canvas");
      const scale = Math.min(1, 1600 / Math.max(video.videoWidth, video.videoHeight));
      canvas.width = video.videoWidth * scale;
      canvas.height = video.videoHeight * scale;
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      dialog.close();
      canvas.toBlob((blob) => ontaken(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92);
    });
    return async () => {
      if (stream || dialog.open) return;
      if (!navigator.mediaDevices) return onproblem("The browser gives no camera to this address; open the page by 127.0.0.1 or HTTPS.");
      shutter.disabled = true;
      dialog.showModal();
      try {
        const got = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
        if (!dialog.open) return got.getTracks().forEach((track) => track.stop());
        stream = video.srcObject = got;
        await video.play();
        shutter.disabled = false;
        shutter.focus();
      } catch (error) {
        if (dialog.open) dialog.close();
        onproblem(`${blocked(error, "camera")} You can choose or paste a picture instead.`);
      }
    };
  };
})();
