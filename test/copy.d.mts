export const root: string;
export function inPackage(name: string, file: string): string;
export function answerOf(command: string, words: string[]): string;
export function copySources(folder: string): void;
export function buildCopy(folder: string, options?: { sanitize?: string; cuda?: boolean }): void;
