// Browsers refuse workers to pages opened as files: there, the search runs in a hidden frame instead.
if (location.protocol === "file:") window.Worker = class extends EventTarget {
  constructor(url) {
    super()
    const frame = document.createElement("iframe")
    this.ready = new Promise(ready => frame.addEventListener("load", ready)).then(() => frame.contentWindow)
    window.searchAnswer = data => this.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }))
    frame.hidden = true
    frame.srcdoc = `<script>postMessage = data => parent.searchAnswer(data)<\/script><script src="${url}"><\/script>`
    document.documentElement.append(frame)
  }

  async postMessage(data) {
    const frame = await this.ready
    frame.dispatchEvent(new frame.MessageEvent("message", { data: frame.structuredClone(data) }))
  }
}
